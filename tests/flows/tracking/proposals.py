"""Processes that decide about a registered model at the same moment, or die while they do.

Reads lines of JSON, [environment, mode, name of the model, counts ...], and answers each with lines of JSON, the last
of which is the exit code. Every process is a fork of this one, which imports everything and opens nothing: imports are
most of what a process costs here.
"""

import importlib
import json
import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.tracking import MlflowClient

from distillery.flows.environment import Places
from distillery.flows.tracking import lock
from distillery.flows.tracking.lifecycle import RegistryTransaction, transaction
from distillery.flows.tracking.registry import FINGERPRINT
from distillery.flows.tracking.runs import connect
from distillery.stages.promotion.decision import Decision, Outcome, decide

for module in (
    "alembic.command",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.model_registry.sqlalchemy_store",
):
    importlib.import_module(module)
FORK = multiprocessing.get_context("fork")


def add_version(client: MlflowClient, name: str, quality: float) -> int:
    """A version whose quality is known: it is one of its tags."""
    tags = {FINGERPRINT: f"{name} {quality}", "quality": str(quality)}
    return int(client.create_model_version(name, "file:///nowhere", tags=tags).version)


def consider(mine: RegistryTransaction, client: MlflowClient, version: int) -> Decision:
    """The decision about a version, by rows that its quality and the champion's make."""

    def outcome(number: int) -> Outcome:
        quality = float(client.get_model_version(mine.name, str(number)).tags["quality"])
        return Outcome(f"version {number}", np.linspace(9, 10, 20) - 0.01 * quality, np.ones(20))

    def judge(champion: int | None) -> Decision:
        rival = None if champion is None else outcome(champion)
        return decide((), {}, outcome(version), rival, resamples=50, confidence=0.95)

    return mine.decide(version, "gates", judge)


def state(client: MlflowClient, name: str) -> dict[str, Any]:
    """Aliases and tags of the registered model, and where each version stands."""
    model = client.get_registered_model(name)
    versions = client.search_model_versions(f"name = '{name}'", max_results=1000)
    return {
        "aliases": {alias: int(version) for alias, version in model.aliases.items()},
        "history": [json.loads(v) for k, v in sorted(model.tags.items()) if k.removeprefix("history.").isdigit()],
        "numbers": [int(k.removeprefix("history.")) for k in sorted(model.tags) if k != "history.done"],
        "done": model.tags.get("history.done"),
        "standing": {int(v.version): v.tags.get("standing") for v in versions},
        "quality": {int(v.version): float(v.tags["quality"]) for v in versions},
    }


def race(name: str, processes: int, rounds: int) -> None:
    """Prints the state after every round in which each process proposes a version of its own."""
    barrier = FORK.Barrier(processes, timeout=120)
    draw = np.random.default_rng(0)
    # Three of each round are better than all before, but in the fourth round none is.
    qualities = [draw.permutation(processes) + 3 * r - 100 * (r == 3) for r in range(rounds)]
    children = [FORK.Process(target=_racer, args=(name, i, qualities, barrier)) for i in range(processes)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    sys.exit(any(child.exitcode for child in children))


def _racer(name: str, number: int, qualities: list[np.ndarray], barrier: Any) -> None:
    try:
        places = _places()
        client = connect(places)
        for quality in qualities:
            version = add_version(client, name, float(quality[number]))
            barrier.wait()
            with transaction(client, places, name) as mine:
                consider(mine, client, version)
            barrier.wait()
            if number == 0:
                _tell(state(client, name))
            barrier.wait()
    except BaseException:
        barrier.abort()
        raise


class Dying(MlflowClient):
    """A client whose process is killed when it is about to move the champion's alias."""

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        """Moves any other alias."""
        if alias == "champion":
            os.kill(os.getpid(), signal.SIGKILL)
        super().set_registered_model_alias(name, alias, version)


def killed(name: str) -> None:
    """Prints the states around a proposal that is killed before it moves the alias; the next is a worse one."""
    for version, dies in ((1, False), (2, True), (3, False)):
        child = FORK.Process(target=_propose, args=(name, version, dies))
        child.start()
        child.join()
        assert child.exitcode == (-signal.SIGKILL if dies else 0)


def _propose(name: str, version: int, dies: bool) -> None:
    places = _places()
    client = connect(places)
    with transaction(Dying(places.tracking_uri) if dies else client, places, name) as mine:
        if version == 3:
            _tell(state(client, name))
        consider(mine, client, version)
        _tell(state(client, name))


def orphan(name: str) -> None:
    """Prints what a process sees that waits for a lock whose holder is killed."""
    mine, theirs = FORK.Pipe()
    holder = FORK.Process(target=_hold, args=(name, theirs, True))
    holder.start()
    _tell(mine.recv())
    waiting = FORK.Process(target=_hold, args=(name, theirs, False))
    waiting.start()
    _tell("got in" if mine.poll(1.0) else "waits")
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    _tell(mine.recv() if mine.poll(60) else "waits for ever")
    waiting.kill()


def _hold(name: str, told: Any, stay: bool) -> None:
    with lock.held(_places(), name):
        told.send("held")
        while stay:
            signal.pause()


def _places() -> Places:
    """Those of this process; with HOMES, of a machine of its own."""
    if "HOMES" in os.environ:
        os.environ["DISTILLERY_HOME"] = str(Path(os.environ["HOMES"]) / str(os.getpid()))
    return Places.from_environment()


def _tell(value: Any) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Does what the lines say, each in a fork."""
    modes: dict[str, Any] = {"race": race, "killed": killed, "orphan": orphan}
    for line in sys.stdin:
        environment, mode, name, *counts = json.loads(line)
        child = FORK.Process(target=_in, args=(environment, modes[mode], name, *counts))
        child.start()
        child.join()
        _tell(child.exitcode)


def _in(environment: dict[str, str], mode: Any, *arguments: Any) -> None:
    os.environ.update(environment)
    mode(*arguments)


if __name__ == "__main__":
    main()
