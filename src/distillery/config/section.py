"""What every part of a config has in common: it is frozen, and refuses what it does not know."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict, model_validator

from distillery.registry import closest
from distillery.user_code import is_user_code, user_code_digest


class Section(BaseModel):
    """A frozen part of the config that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
    renamed: ClassVar[dict[str, str]] = {}
    """Keys of earlier versions, with their names of today."""

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, given: object) -> object:
        if isinstance(given, dict):
            for key in given:
                if key in cls.renamed:
                    raise ValueError(f"expected {cls.renamed[key]!r}, got {key!r}, its name in an earlier version")
                if key not in cls.model_fields:
                    raise ValueError(f"unknown key: {closest(str(key), cls.model_fields)}")
        return given


class Choices(Protocol):
    """What is registered of one kind, see `distillery.registry`."""

    def check(self, name: str, given: Mapping[str, object], also: Iterable[str] = ()) -> dict[str, object]:
        """The options of a choice, defaults filled in and types checked."""


class Choice(BaseModel):
    """A part of the config that names a registered choice; its further keys are that choice's options.

    One from a user's own file also holds `code`, the digest of the file, which is filled in.
    """

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())
    registry: ClassVar[Choices]
    selector: ClassVar[str]

    @model_validator(mode="after")
    def _resolve(self) -> Choice:
        name, extra = getattr(self, self.selector), self.__pydantic_extra__ or {}
        given = {k: v for k, v in extra.items() if not (k == "code" and is_user_code(name))}
        checked = self.registry.check(name, given, also=type(self).model_fields)
        own = {"code": user_code_digest(name)} if is_user_code(name) else {}
        object.__setattr__(self, "__pydantic_extra__", {**checked, **own})
        return self

    @property
    def options(self) -> dict[str, Any]:
        """The options of the choice, defaults filled in."""
        extra = self.__pydantic_extra__ or {}
        return {k: v for k, v in extra.items() if not (k == "code" and is_user_code(getattr(self, self.selector)))}
