"""A PostgreSQL of the tests' own, and a shell that runs docs/production.md section by section."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
DEBIAN = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name))
PROGRAMS = os.pathsep.join([os.environ["PATH"], *map(str, reversed(DEBIAN))])
PATIENCE = 180  # seconds that one section may take


@dataclass(frozen=True)
class Postgres:
    """A running cluster: its port, and the command that opens it as its superuser."""

    port: int
    psql: str

    def ask(self, database: str, query: str) -> str:
        """The answer to a query, as plain text."""
        command = [*self.psql.split(), f"--port={self.port}", f"--dbname={database}", "-AXt", f"--command={query}"]
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd="/").stdout.strip()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A cluster in a folder of its own, asking for passwords on its port; PostgreSQL refuses to be run by root."""
    initdb, pg_ctl = (shutil.which(name, path=PROGRAMS) for name in ("initdb", "pg_ctl"))
    if initdb is None or pg_ctl is None or shutil.which("psql") is None:
        pytest.skip("PostgreSQL is not installed: no initdb, pg_ctl or psql; try apt-get install postgresql")
    port, folder = free_port(), Path(tempfile.mkdtemp(prefix="postgres"))
    other = ["runuser", "--user=postgres", "--"] if os.geteuid() == 0 else []
    if other:
        shutil.chown(folder, "postgres")

    def run(*command: str) -> None:
        done = subprocess.run([*other, *command], cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 0, f"{command}: {done.stderr}"

    data = f"--pgdata={folder / 'data'}"
    try:
        run(initdb, data, "--auth-local=peer", "--auth-host=scram-sha-256", "--no-sync", "--encoding=UTF8")
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        run(pg_ctl, data, "--wait", f"--log={folder / 'log'}", f"--options={options}", "start")
        try:
            yield Postgres(port, " ".join([*other, "psql", f"--host={folder}"]))
        finally:
            run(pg_ctl, data, "--mode=immediate", "stop")
    finally:
        shutil.rmtree(folder)


def sections() -> dict[str, list[str]]:
    """The commands of docs/production.md: the blocks below each headline."""
    parts = re.split(r"^## (.+)$", (ROOT / "docs" / "production.md").read_text(), flags=re.MULTILINE)[1:]
    texts = dict(zip(parts[::2], parts[1::2], strict=True))
    found = {name: re.findall(r"```bash\n(.*?)```", text, re.DOTALL) for name, text in texts.items()}
    return {name: blocks for name, blocks in found.items() if blocks}


@dataclass
class Shell:
    """One shell for the whole document, so that what a block exports or starts is there for the next ones."""

    state: Path
    settings: dict[str, str]
    done: list[str] = field(default_factory=list)

    def __enter__(self) -> "Shell":
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "PG"))}
        self._bash = subprocess.Popen(
            ["bash", "-e", "-u", "-o", "pipefail"],
            cwd=ROOT,
            env=environment | self.settings | {"DISTILLERY_STATE": str(self.state), "PATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a script's background job ignores it
        )
        # As in a terminal. Without job control what runs in the background ignores SIGINT, by which a worker stops.
        self.run("set -m")
        return self

    def section(self, name: str) -> str:
        """Runs the blocks of a section and returns what they printed."""
        self.done.append(name)
        return "".join(self.run(block) for block in sections()[name])

    def run(self, block: str) -> str:
        """What the commands of a block printed; one that fails ends the shell."""
        assert self._bash.stdin is not None and self._bash.stdout is not None
        patience = threading.Timer(PATIENCE, self._bash.kill)
        patience.start()
        self._bash.stdin.write(f"{block}\necho; echo ---done\n")
        self._bash.stdin.flush()
        printed = ""
        for line in self._bash.stdout:
            if line == "---done\n":
                patience.cancel()
                return printed
            printed += line
        patience.cancel()
        raise AssertionError(f"this failed:\n{block}\n{printed}\n{self.logs()}")

    def logs(self) -> str:
        """The end of what each server has written."""
        return "\n".join(f"== {log.name}\n{log.read_text()[-2000:]}" for log in sorted(self.state.glob("*.log")))

    def __exit__(self, *_: object) -> None:
        self._bash.kill()
        # A worker gives its flows sessions of their own; whatever was started from here carries this folder's name.
        for process in psutil.process_iter():
            try:
                if process.environ().get("DISTILLERY_STATE") == str(self.state):
                    process.send_signal(signal.SIGKILL)
            except psutil.Error:
                continue
        self._bash.communicate()
