"""Stage directories named by their content: written, checksummed, found again, fetched, swept."""

from distillery.store.store import Handle, StageNotFound, Store, checksum, fingerprint, is_at, write_json

__all__ = ["Handle", "StageNotFound", "Store", "checksum", "fingerprint", "is_at", "write_json"]
