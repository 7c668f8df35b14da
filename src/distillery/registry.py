"""A registry turns "one file in this folder" into "one word in the config".

Some also take a function or class of the user's own file, written as ``path/to/file.py:name``.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, ParamSpec, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from distillery.errors import InputError
from distillery.user_code import is_user_code, load_user_code

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T", bound=Mapping[str, object])


def closest(word: str, allowed: Iterable[str]) -> str:
    """``expected one of a, b, c, got 'x'`` with the nearest name first."""
    names = sorted(allowed)
    near = difflib.get_close_matches(word, names, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"expected one of {', '.join(names)}, got {word!r}{hint}"


def nearest_first(word: str, names: Sequence[str]) -> list[str]:
    """Returns the names, those that are spelt most like `word` first and the others in their order."""
    near = difflib.get_close_matches(word, names)
    return [*near, *(name for name in names if name not in near)]


class Registry(Generic[R, T]):
    """Named choices of one kind, functions that return an R. Their keyword-only parameters are options in the config.

    Args:
        kind: What its choices are called in messages.
        package: Where they lie.
        traits: Makes the facts about a choice, a T, from keywords: a TypedDict, or dict.
        own: The traits of a choice from a user's own file, unless its attribute `traits` says otherwise; None where
            such a choice is not taken.
    """

    def __init__(self, kind: str, package: str, traits: Callable[..., T], own: T | None = None) -> None:
        self.kind, self._own = kind, own
        self._package = package
        self._make_traits = traits
        self._entries: dict[str, Callable[..., R]] = {}
        self._traits: dict[str, T] = {}
        self._discovered = False

    def register(self, name: str, **traits: object) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Decorator that enters a function under `name`.

        `traits` are facts that the config asks for; the trait `check`, a function of the options, refuses what their
        types alone cannot.
        """

        def enter(function: Callable[P, R]) -> Callable[P, R]:
            assert name not in self._entries, f"{self.kind} {name!r} is registered twice"
            self._entries[name] = function
            self._traits[name] = self._make_traits(**traits)
            return function

        return enter

    def _discover(self) -> None:
        if not self._discovered:
            self._discovered = True
            package = importlib.import_module(self._package)
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{self._package}.{module.name}")

    def names(self) -> list[str]:
        """All registered names, sorted."""
        self._discover()
        return sorted(name for name in self._entries if not is_user_code(name))

    def __getitem__(self, name: str) -> Callable[..., R]:
        """The function registered as `name`.

        Raises:
            InputError: `name` is not registered.
        """
        self._discover()
        if name not in self._entries and self._own is not None and is_user_code(name):
            function = load_user_code(name, self.kind)
            self._entries[name] = function
            self._traits[name] = self._make_traits(**{**self._own, **getattr(function, "traits", {})})
        if name not in self._entries:
            raise InputError(f"unknown {self.kind}: {closest(name, (n for n in self._entries if not is_user_code(n)))}")
        return self._entries[name]

    def __contains__(self, name: str) -> bool:
        """Whether `name` is registered by now; of a user's own file it is once a config has named it."""
        self._discover()
        return name in self._entries

    def traits(self, name: str) -> T:
        """The facts given when `name` was registered."""
        _ = self[name]
        return self._traits[name]

    def options(self, name: str) -> type[BaseModel]:
        """A pydantic model of the options of `name`, made from its keyword-only parameters."""
        signature = inspect.signature(self[name], eval_str=True)
        fields: dict[str, Any] = {
            p.name: (object if p.annotation is p.empty else p.annotation, ... if p.default is p.empty else p.default)
            for p in signature.parameters.values()
            if p.kind is p.KEYWORD_ONLY
        }
        settings = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())
        return create_model(f"{name}_options", __config__=settings, **fields)

    def check(self, name: str, given: Mapping[str, object], also: Iterable[str] = ()) -> dict[str, object]:
        """The options of `name` with defaults filled in and types checked.

        Args:
            name: A registered name.
            given: Options as the user wrote them.
            also: Names of further fields that stand beside the options, for the error text.

        Raises:
            InputError: An option is unknown, missing or of the wrong type.
        """
        model = self.options(name)
        for key in given:
            if key not in model.model_fields:
                raise InputError(
                    f"unknown option of {self.kind} {name!r}: {closest(key, [*model.model_fields, *also])}"
                )
        try:
            checked = model(**given).model_dump()
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            if first["type"] == "missing":
                raise InputError(f"{self.kind} {name!r} needs the option {field!r}") from None
            raise InputError(f"{field}: {first['msg']}, got {first['input']!r}") from None
        refuse = self._traits[name].get("check")
        if callable(refuse):
            refuse(checked)
        return checked
