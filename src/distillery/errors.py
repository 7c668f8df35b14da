"""The one error that a user can cause and can mend."""


class InputError(ValueError):
    """Something in the user's input is wrong: the message names it, what was expected and what was got."""
