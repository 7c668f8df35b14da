"""What stages hand to each other: frozen records that are read by attribute and kept as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from distillery.errors import InputError
from distillery.store.store import Handle


class Part(BaseModel):
    """A frozen part of a record that refuses keys it does not know."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        protected_namespaces=(),
        ser_json_inf_nan="constants",
        json_schema_serialization_defaults_required=True,  # a file has all keys, those with a default too
    )


class Record(Part):
    """A file of a stage. Each kind has a field `schema_version`, whose one allowed value says what the file looks like.

    When a record's shape changes, its `schema_version` rises, and so does the `VERSION` in the key of its stage: the
    store then makes stages of the earlier version anew.
    """

    FILE: ClassVar[str]

    def write(self, folder: Path) -> None:
        """Writes the file into a folder, so that a reader sees the old one or the new one, never half of one."""
        path = folder / self.FILE
        temporary = path.with_name(f"{path.name}.tmp")
        temporary.write_text(self.model_dump_json(indent=1))
        temporary.replace(path)

    @classmethod
    def read(cls, stage: Handle | Path) -> Self:
        """The record of a stage directory.

        Raises:
            InputError: The file is of another version, or none of this kind.
        """
        folder = Path(stage.path) if isinstance(stage, Handle) else stage
        return cls.parse((folder / cls.FILE).read_text(), str(folder / cls.FILE))

    @classmethod
    def parse(cls, text: str, where: str) -> Self:
        """The record that a text holds; errors name `where` it is from.

        Raises:
            InputError: It is of another version, or none of this kind.
        """
        # The version comes first: the field has a default, so a file that says no version might pass for the newest.
        expected = cls.model_fields["schema_version"].default
        version = _version_in(text)
        if version != expected:
            raise InputError(f"{where}: expected schema_version {expected}, got {version}: make it anew")
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            problem = f"{'.'.join(map(str, first['loc'])) or 'the whole'}: {first['msg']}"
        raise InputError(f"{where}: expected a {cls.__name__}, got another content: {problem}")


def _version_in(text: str) -> object:
    """The version that a file says it has; None where it says none."""
    try:
        tree = json.loads(text)
    except ValueError:
        return None
    return tree.get("schema_version") if isinstance(tree, dict) else None
