"""Code of the user's own, named in a config as ``path/to/file.py:name``."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distillery.errors import InputError


def is_user_code(name: str) -> bool:
    """Whether a name means code of the user: ``path/to/file.py:name``."""
    return ".py:" in name


def user_code_digest(name: str) -> str:
    """Digest of the file that a user's own choice is from, so that a change of it is a change of the config."""
    path = Path(name.rpartition(":")[0]).expanduser()
    return hashlib.blake2b(path.read_bytes(), digest_size=12).hexdigest()


def load_user_code(name: str, kind: str) -> Callable[..., Any]:
    """The function or class that ``path/to/file.py:name`` means; the path is relative to the working directory.

    Raises:
        InputError: The file is not there or cannot be run, or does not hold it.
    """
    file, _, wanted = name.rpartition(":")
    path = Path(file).expanduser().resolve()
    if not path.is_file():
        raise InputError(f"{kind} {name!r}: expected a file {file!r}, which does not exist")
    module_name = f"distillery_own_{path.stem}_{user_code_digest(name)[:8]}"
    if module_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None and spec.loader is not None
        module = sys.modules[module_name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[module_name]
            raise InputError(f"{kind} {name!r}: {file} cannot be run: {type(error).__name__}: {error}") from error
    function = getattr(sys.modules[module_name], wanted, None)
    if not callable(function):
        raise InputError(f"{kind} {name!r}: expected a function or class {wanted!r} in {file}, got none")
    return function
