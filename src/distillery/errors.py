"""The one error that a user can cause and can mend, and the first line of any error."""


class InputError(ValueError):
    """Something in the user's input is wrong: the message names it, what was expected and what was got."""


def first_line(error: BaseException | str) -> str:
    """Returns the first line of an error's message, or the name of its type where the message is empty."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
