"""Prefect's server for one run: it starts beside the imports, and ends with the process that asked for it.

Prefect starts such a server by itself, but only when the flow begins, and it outlives a run that is killed.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.client import HTTPException

from distillery.flows import importing

STOP_SECONDS = 10
URL = "PREFECT_API_URL"


@contextmanager
def prefect_server() -> Iterator[Callable[[], None]]:
    """A function that returns once Prefect's server answers: the one that Prefect's settings name, or a new one."""
    begun = None if os.environ.get(URL) else _begin()  # before prefect is imported, which takes a second
    with importing():
        from prefect.context import refresh_global_settings_context
        from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
    if begun is None or PREFECT_API_URL.value() is not None:  # the new one has found the same, and ended
        yield _check
        return
    server, address = begun
    ready = threading.Event()
    atexit.register(_stop, server, ready)  # the last events are sent when all else has ended
    os.environ[URL] = address
    refresh_global_settings_context()
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):  # nobody else looks at this server
        yield partial(_wait, address, ready)


def _begin() -> tuple[subprocess.Popen[bytes], str]:
    """A server in a process of its own, and its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:  # who asks before the server accepts, waits
        number = str(listening.fileno())
        command, handed = [sys.executable, "-m", "distillery.flows.servers.ephemeral", number], [listening.fileno()]
        # A session of its own: ctrl-C is for the run, which still has its end to tell the server.
        settings = {**os.environ, "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false"}  # a second, for what no run uses
        server = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=handed, start_new_session=True, env=settings)
        return server, f"http://127.0.0.1:{listening.getsockname()[1]}/api"


def _check() -> None:
    from distillery.flows.connections import check_prefect

    check_prefect()


def _wait(address: str, ready: threading.Event) -> None:
    from prefect.settings import PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS

    seconds = PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value()
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=seconds):
            ready.set()
    except (OSError, HTTPException) as error:
        raise RuntimeError(f"Prefect's server did not start: {error}") from error


def _stop(server: subprocess.Popen[bytes], ready: threading.Event) -> None:
    assert server.stdin is not None
    server.stdin.close()
    if not ready.is_set():
        return  # it ends when it has started: its database may be in the making
    try:
        server.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _serve(number: int) -> None:
    with importing():
        from prefect.settings import PREFECT_API_URL

        if PREFECT_API_URL.value() is not None:
            return
        import uvicorn
        from prefect.server.api.server import create_app
        from prefect.server.database import provide_database_interface

        asyncio.run(provide_database_interface().create_db())  # a new one takes five seconds, six with garbage searched

    app = create_app(ephemeral=True, final=True)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on"))

    def end_with_parent() -> None:
        sys.stdin.read()
        logging.getLogger("uvicorn.error").setLevel("CRITICAL")  # nobody is left to read of a start that is cut short
        server.should_exit = True

    threading.Thread(target=end_with_parent, daemon=True).start()
    server.run([socket.socket(fileno=number)])
    os._exit(0)  # to take down what was imported would keep the run waiting


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
