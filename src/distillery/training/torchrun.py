"""One network trained by several processes of this machine, started by torchrun; none of them outlives this one.

This process holds the one end of a pipe whose other end is the standard input of all that it starts: when it dies,
however that happens, they read the end of the pipe and end themselves. A rank that fails does so a little late, for one
that only lost its partner fails as well, and torchrun has to see the first one first.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NoReturn

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, record

from distillery.training import ranks
from distillery.training.stackable import stackable

if TYPE_CHECKING:
    from distillery.training.fit import OnEpochs, TrainResult

VARIABLE = "DISTILLERY_GPUS_PER_TRAINING"
POLL_SECONDS = 0.05
LATE_SECONDS = 2.0
END_SECONDS = 10.0
LAST_LINES = 6  # of a rank's error


def processes() -> int:
    """How many processes train one network, each with a GPU of its own. From the environment, for workers to know."""
    return int(os.environ.get(VARIABLE, "1"))


def wanted(networks: Sequence[nn.Module]) -> bool:
    """Whether several processes train these: a single network, too large to be stacked."""
    return processes() > 1 and len(networks) == 1 and not stackable(networks)


def train(name: str, program: str, device: str, job: tuple[Any, ...], on_epochs: OnEpochs | None) -> TrainResult:
    """What became of a network that several processes train.

    Args:
        name: Of the training, for errors.
        program: The module that each process runs; it calls `run_rank`.
        device: ``cpu``, or ``cuda`` for a GPU each.
        job: What the program is to do, small: arrays stay in their stage directories.
        on_epochs: Told of every epoch; it cannot stop the training but by an exception.

    Raises:
        ChildProcessError: A process was killed.
        RuntimeError: One failed.
    """
    with TemporaryDirectory(prefix="distillery-") as made:
        folder = Path(made)
        (folder / "job").write_bytes(pickle.dumps((device, job)))
        code = _watched(program, folder, on_epochs)
        if code == 0:
            result: TrainResult = pickle.loads((folder / "result").read_bytes())
            return result
        if not (folder / "failure").exists():
            raise ChildProcessError(f"{name}: torchrun ended with {code}")
        killed, text = json.loads((folder / "failure").read_text())
        raise (ChildProcessError if killed else RuntimeError)(f"{name}: {text}")


def _watched(program: str, folder: Path, on_epochs: OnEpochs | None) -> int:
    """How torchrun ended."""
    threads = max(1, torch.get_num_threads() // processes())
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "distillery.training.torchrun", program, str(folder), str(processes())]
    # A session of its own: what a terminal interrupts is this process, which then ends the others.
    started = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, start_new_session=True)
    assert started.stdin is not None
    seen = 0
    try:
        while (code := started.poll()) is None:
            time.sleep(POLL_SECONDS)
            seen = _report(folder / "epochs", seen, on_epochs)
        _report(folder / "epochs", seen, on_epochs)
        return code
    finally:
        started.stdin.close()
        try:
            started.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def _report(file: Path, seen: int, on_epochs: OnEpochs | None) -> int:
    """Passes on the epochs after the first `seen`; how many there are."""
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    for line in lines[seen:]:
        epoch, figures = json.loads(line)
        if on_epochs is not None:
            on_epochs(epoch, {0: figures})
    return len(lines)


def _launch(program: str, folder: Path, count: str) -> int:
    from torch.distributed import run as torchrun

    _end_with_stdin(signal.SIGTERM)  # on which torchrun ends its ranks
    options = ["--standalone", "--nproc-per-node", count, "--log-dir", str(folder / "logs")]
    try:
        torchrun.run(torchrun.parse_args([*options, "-m", program, str(folder)]))
        return 0
    except SignalException as ended:  # nobody waits for an answer, or tidies up
        shutil.rmtree(folder, ignore_errors=True)
        return 128 + ended.sigval
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        said: Any = failure.message
        text = said if isinstance(said, str) else said["extraInfo"]["py_callstack"]
        last = "\n".join(text.strip().splitlines()[-LAST_LINES:])
        (folder / "failure").write_text(json.dumps([failure.exitcode < 0, f"rank {rank} of {count} failed: {last}"]))
        return 1


def run_rank(train: Callable[..., TrainResult]) -> NoReturn:
    """Trains as one of several processes; the first one tells of the epochs and of what became of the network.

    It ends without Python's own end: threads of torch.distributed may still run, and one of them that asks for the
    interpreter while that is taken down aborts the process, after all its work is done.
    """
    code = 0
    try:
        _rank(train)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@record
def _rank(train: Callable[..., TrainResult]) -> None:
    folder = Path(sys.argv[1])
    _end_with_stdin(signal.SIGKILL)
    device, job = pickle.loads((folder / "job").read_bytes())
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        result = train(*job, device=device, on_epochs=partial(_tell, folder / "epochs") if ranks.rank() == 0 else None)
    except Exception:
        time.sleep(LATE_SECONDS)
        raise
    if ranks.rank() == 0:
        (folder / "result").write_bytes(pickle.dumps(result))
    dist.destroy_process_group()


def _tell(file: Path, epoch: int, records: dict[int, dict[str, float]]) -> tuple[()]:
    with file.open("a") as stream:
        stream.write(json.dumps([epoch, records[0]]) + "\n")
    return ()


def _end_with_stdin(number: signal.Signals) -> None:
    def wait() -> None:
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), number)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    sys.exit(_launch(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
