"""How a command ends: one line for the user, and an exit code."""

from __future__ import annotations

import argparse
import errno
import sys
import traceback

from distillery.errors import InputError, first_line
from distillery.flows.safe_text import visible, without_secrets

FULL = ("No space left on device", "database or disk is full", "Disk quota exceeded")


def guarded(given: argparse.Namespace) -> int:
    """The exit code of a command: 0 if all went well, 2 for wrong input, 1 for anything else."""
    try:
        given.do(given)
        return 0
    except KeyboardInterrupt:
        problem, code = "stopped; the same command goes on where it stopped", 130
    except InputError as error:
        problem, code = str(error), 2
        _trace(given)
    except Exception as error:
        problem, code = explain(error)
        _trace(given)
    line = visible(without_secrets(f"distillery: {problem}"))
    print(line, file=sys.stderr)  # noqa: T201 - the command's own error line
    return code


def _trace(given: argparse.Namespace) -> None:
    """Where it went wrong, for --debug."""
    if given.debug:
        print(without_secrets(traceback.format_exc()), file=sys.stderr)  # noqa: T201 - asked for


def explain(error: BaseException) -> tuple[str, int]:
    """(one line for the user, exit code) of an error that no stage foresaw."""
    seen: BaseException | None = error
    while seen is not None:
        # Libraries that write files wrap the system's error in their own, and keep only its text.
        by_number = isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT)
        if by_number or any(text in str(seen) for text in FULL):
            where = f" ({seen.filename}: {seen.strerror})" if isinstance(seen, OSError) and seen.filename else ""
            return f"the disk is full{where}; what is finished is kept: make room and give the same command again", 2
        seen = seen.__cause__ or seen.__context__
    return f"{type(error).__name__}: {first_line(error)} (--debug shows where)", 1
