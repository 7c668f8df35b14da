"""What the name of a file says of the table in it, and what is said of files that hold none."""

from __future__ import annotations

from pathlib import Path

from distillery.errors import InputError

PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip")
TEXT, JSON, PARQUET = (".csv", ".tsv", ".tab", ".txt", ".data"), (".jsonl", ".ndjson"), (".parquet", ".pq")
EXCEL = (".xlsx", ".xls", ".xlsm", ".ods")
KINDS = ".csv, .tsv, .jsonl or .parquet file, perhaps compressed, or a folder of Parquet files"


def is_table(file: Path) -> bool:
    """Whether a file's name, or what a folder holds, says that it is a table."""
    if file.is_dir():
        return any(file.rglob("*.parquet"))
    return kind_of(file) in (*TEXT, *JSON, ".json", *PARQUET, *EXCEL)


def kind_of(file: Path) -> str:
    """The ending of a file's name that says what it is, below that of a compression."""
    packed = file.suffix.lower() in PACKED
    return Path(file.stem).suffix.lower() if packed else file.suffix.lower()


def check_names(path: str, names: list[str], what: str = "data") -> None:
    """Refuses a file in which two columns have one name."""
    for number, name in enumerate(names):
        if names.index(name) != number:
            raise InputError(
                f"{what}: expected columns of different names in {path!r}, got {name!r} as columns "
                f"{names.index(name) + 1} and {number + 1}; rename or remove one"
            )
