"""Prefect's server for one run: it starts beside the imports, and ends with the process that asked for it.

Prefect starts such a server by itself, but only when the flow begins, and it outlives a run that is killed.
"""

from __future__ import annotations

import atexit
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

from prefect.context import refresh_global_settings_context
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    temporary_settings,
)

from flows import importing

STOP_SECONDS = 10


@contextmanager
def prefect_server() -> Iterator[Callable[[], None]]:
    """A function that returns once Prefect's server answers: the one that the environment names, or a new one."""
    if PREFECT_API_URL.value() is not None:
        yield _check
        return
    with socket.create_server(("127.0.0.1", 0)) as listening:  # who asks before the server accepts, waits
        number = str(listening.fileno())
        command, handed = [sys.executable, "-m", "flows.ephemeral", number], [listening.fileno()]
        # A session of its own: ctrl-C is for the run, which still has its end to tell the server.
        server = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=handed, start_new_session=True)
        address = f"http://127.0.0.1:{listening.getsockname()[1]}/api"
    ready = threading.Event()
    atexit.register(_stop, server, ready)  # the last events are sent when all else has ended
    os.environ["PREFECT_API_URL"] = address
    refresh_global_settings_context()
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):  # nobody else looks at this server
        yield partial(_wait, address, ready)


def _check() -> None:
    from flows.servers import check_prefect

    check_prefect()


def _wait(address: str, ready: threading.Event) -> None:
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
        import uvicorn
        from prefect.server.api.server import create_app

    app = create_app(ephemeral=True, final=True)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on"))

    def end_with_parent() -> None:
        sys.stdin.read()
        server.should_exit = True

    threading.Thread(target=end_with_parent, daemon=True).start()
    server.run([socket.socket(fileno=number)])


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
