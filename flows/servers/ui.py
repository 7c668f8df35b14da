"""`make ui`: the MLflow and Prefect pages on loopback, until ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

from rich.console import Console

from distillery.flows.environment import Places
from distillery.flows.safe_text import plain
from distillery.flows.tracking.runs import VIEW

MLFLOW = f"http://127.0.0.1:{os.environ.get('MLFLOW_PORT', '5000')}"
PREFECT = f"http://127.0.0.1:{os.environ.get('PREFECT_PORT', '4200')}"


def main() -> int:
    """Starts both servers, prints their addresses, and ends them together."""
    console = Console()
    servers = [
        ("MLflow", MLFLOW, "/health", subprocess.Popen(mlflow_command(), env=environment(), start_new_session=True)),
        ("Prefect", PREFECT, "/api/health", subprocess.Popen(_prefect(), env=environment(), start_new_session=True)),
    ]
    try:
        for name, address, health, process in servers:
            _wait(name, address + health, process)
            page = f"{address}/#/experiments?{VIEW}" if name == "MLflow" else address
            console.print(plain(f"{name:8} {page}"), soft_wrap=True)
        hint = f"to watch a run in Prefect, start it with PREFECT_API_URL={PREFECT}/api"
        console.print(plain(hint), soft_wrap=True)
        while all(process.poll() is None for *_, process in servers):
            time.sleep(0.5)
        console.print(plain("one of the servers has ended, so the other is stopped too"))
        return 1
    except KeyboardInterrupt:
        return 0
    except RuntimeError as error:
        console.print(plain(error, "red"))
        return 1
    finally:
        for *_, process in servers:
            _end(process)


def mlflow_command() -> list[str]:
    """MLflow's server; what may hold a password is in `environment`, since every user can read command lines."""
    places = Places.from_environment()
    store = []
    if places.artifacts is not None:
        (places.home / "mlflow").mkdir(exist_ok=True)
        store += ["--artifacts-destination", places.artifacts]
    address = ["--host", "127.0.0.1", "--port", MLFLOW.rsplit(":", 1)[1]]
    return [sys.executable, "-m", "mlflow", "server", *store, *address, "--workers", "1"]


def _prefect() -> list[str]:
    address = ["--host", "127.0.0.1", "--port", PREFECT.rsplit(":", 1)[1]]
    return [sys.executable, "-m", "prefect", "server", "start", *address, "--log-level", "ERROR"]


def environment() -> dict[str, str]:
    """What both servers are started with."""
    settings = {
        "MLFLOW_BACKEND_STORE_URI": Places.from_environment().tracking_uri,
        # Without this MLflow starts a dozen job processes that nothing here uses.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PREFECT_UI_URL": PREFECT,
        "PREFECT_API_URL": f"{PREFECT}/api",
    }
    return {**os.environ, **settings}


def _wait(name: str, address: str, process: subprocess.Popen[bytes], seconds: int = 120) -> None:
    for _ in range(seconds * 2):
        if process.poll() is not None:
            raise RuntimeError(f"{name} did not start at {address}; is the port taken? See the lines above")
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise RuntimeError(f"{name} did not answer at {address} within {seconds} s")


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(10)
    except ProcessLookupError:
        pass
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
