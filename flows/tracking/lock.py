"""One process at a time decides about a registered model: MLflow cannot compare and swap an alias.

Two locks, both dropped when their holder dies. A kernel lock on a file holds for one machine, or for machines that
share the folder: beside the database where the tracking store is sqlite, else in DISTILLERY_HOME. Where
DISTILLERY_DATABASE names a PostgreSQL database, an advisory lock in it holds for every machine that names the same one.
With a tracking server and no such database, machines that do not share DISTILLERY_HOME are not kept apart.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine, NullPool, create_engine, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError

from distillery.address import masked
from distillery.errors import InputError, first_line
from distillery.flows.environment import DATABASE, Places
from distillery.store.kernel_lock import try_lock

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10
# The server forgets a holder whose machine has vanished within a minute instead of two hours, and lets one wait.
SESSION = (
    "-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3 "
    "-c statement_timeout=0 -c lock_timeout=0"
)


@contextmanager
def held(places: Places, name: str) -> Iterator[Callable[[], None]]:
    """Alone with a registered model; gives a function that raises ConnectionError if that is no longer so."""
    with _file_lock(_path(places, name), name), _database_lock(places.database, name) as check:
        yield check


def check_database(places: Places) -> None:
    """Connects to the database of the lock, where one is set.

    Raises:
        InputError: It cannot be used.
    """
    if places.database is not None:
        engine = _engine(places.database)
        try:
            engine.connect().close()
        except DBAPIError as error:
            where = masked(places.database)
            raise InputError(
                f"{DATABASE}: expected a database that answers at {where!r}, got: {first_line(error.orig or error)}"
            ) from error


def address(places: Places) -> str | None:
    """The database's address for SQLAlchemy, with the driver that is installed; None where none is set."""
    return None if places.database is None else _engine(places.database).url.render_as_string(hide_password=False)


def _path(places: Places, name: str) -> Path:
    key = hashlib.blake2b(name.encode(), digest_size=6).hexdigest()
    if places.tracking_uri.startswith("sqlite:///"):
        return Path(f"{places.tracking_uri.removeprefix('sqlite:///')}-{key}.lock")
    return places.store / f"registry-{key}.lock"


@contextmanager
def _file_lock(path: Path, name: str) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        if not try_lock(stream):
            _waiting(name)
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@contextmanager
def _database_lock(address: str | None, name: str) -> Iterator[Callable[[], None]]:
    if address is None:
        yield lambda: None
        return
    key = {"key": int.from_bytes(hashlib.blake2b(f"distillery:{name}".encode(), digest_size=8).digest(), signed=True)}
    try:
        connection = _engine(address).connect()
        with connection:

            def check() -> None:
                try:
                    connection.execute(text("SELECT 1"))
                except DBAPIError as error:
                    reason = first_line(error.orig or error)
                    raise ConnectionError(f"{DATABASE}: the lock was lost: {reason}") from error

            if not connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), key):
                _waiting(name)
                connection.execute(text("SELECT pg_advisory_lock(:key)"), key)
            yield check
    except DBAPIError as error:
        raise ConnectionError(f"{DATABASE}: {first_line(error.orig or error)}") from error


def _engine(address: str) -> Engine:
    expected = f"{DATABASE}: expected postgresql://user:password@host:port/database"
    try:
        url = make_url(address)
    except (ArgumentError, ValueError):
        raise InputError(f"{expected}, got something else") from None  # not shown: it may hold a password
    if url.get_backend_name() not in ("postgresql", "postgres"):
        raise InputError(f"{expected}, got {url.drivername}://")
    try:
        return create_engine(
            url.set(drivername="postgresql+psycopg"),
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
            connect_args={"connect_timeout": CONNECT_SECONDS, "options": SESSION},
        )
    except ImportError as error:
        raise InputError(f"{DATABASE}: expected psycopg 3 to be installed (psycopg[binary]), got: {error}") from error


def _waiting(name: str) -> None:
    log.info("waiting: another process decides about %s", name)
