"""The `distillery` command."""

from __future__ import annotations

import argparse
import atexit
import json
import logging
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.highlighter import NullHighlighter
from rich.logging import RichHandler
from rich.progress import Progress

from distillery import __version__
from distillery.errors import InputError
from distillery.flows import importing
from distillery.flows.failures import guarded
from distillery.flows.safe_text import Plain, plain, tell_warnings, visible

if TYPE_CHECKING:
    from collections.abc import Callable

    from distillery.flows.environment import Places
    from distillery.flows.tracking.registry import RegisteredModel
    from distillery.flows.tracking.runs import MlflowClient

LONGEST_REASON = 2000

console = Console(width=None if sys.stdout.isatty() else 150)


def main(arguments: list[str] | None = None) -> None:
    """Entry point: exit code 0 if all went well, 2 for wrong input, 1 for anything else."""
    given = parser().parse_args(arguments)
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "INFO" if given.debug else "CRITICAL")
    _log_to(console)
    sys.exit(guarded(given))


def _log_to(console: Console) -> None:
    handler: logging.Handler
    if console.is_terminal:
        handler = RichHandler(console=console, show_path=False, highlighter=NullHighlighter(), keywords=[])
        handler.setFormatter(Plain("%(message)s"))
        logging.getLogger("distillery.flows.tasks.stages").setLevel("WARNING")  # progress bars say the same
    else:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(Plain("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    logging.basicConfig(level="INFO", handlers=[handler])
    tell_warnings()
    for noisy in ("alembic", "mlflow", "onnxscript", "onnx_ir", "torch.onnx", "httpx", "matplotlib"):
        logging.getLogger(noisy).setLevel("ERROR")


def program() -> None:
    """The installed command: `main`, and then no taking down of what was imported, which takes up to 3 seconds."""
    code = 1

    def leave() -> None:
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):  # nobody reads it any more
                stream.flush()
        os._exit(code)

    atexit.register(leave)  # the first to be registered runs last
    try:
        main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        raise


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    whole = argparse.ArgumentParser(prog="distillery", description="From an ensemble to one small, fast student.")
    whole.add_argument("--version", action="version", version=f"distillery {__version__}")
    whole.add_argument("--debug", action="store_true", help="show tracebacks and Prefect's log")
    commands = whole.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, do: Callable[[argparse.Namespace], None], help_: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help_, description=help_)
        command.set_defaults(do=do)
        return command

    run = add("run", _run, "run the whole chain that a config describes")
    run.add_argument("config", help="YAML file")
    run.add_argument("overrides", nargs="*", metavar="key=value", help="for instance search.trials=40")
    parts = "search: up to the evaluation; release: the decision about what a search has finished"
    run.add_argument("--part", default="all", choices=("all", "search", "release"), help=parts)
    check = add("check", _check, "read the data of a config and say what is wrong with them, without training")
    check.add_argument("config", help="YAML file")
    check.add_argument("overrides", nargs="*", metavar="key=value", help="for instance data.path=rows.csv")
    report = add("report", _report, "print the report of the last run")
    report.add_argument("name", help="the experiment's name")
    report.add_argument("--json", action="store_true", help="print the file itself")
    promote = add("promote", _promote, "make a version the champion by hand")
    promote.add_argument("name", help="the registered model, named like the experiment")
    promote.add_argument("version", type=int)
    promote.add_argument("--reason", required=True, help="stored on the version")
    rollback = add("rollback", _rollback, "make the previous champion the champion again")
    rollback.add_argument("name")
    rollback.add_argument("--reason", default="", help="stored in the history")
    history = add("history", _history, "every decision about the versions of a registered model")
    history.add_argument("name")
    history.add_argument("--json", action="store_true", help="print the entries themselves")
    predict = add("predict", _predict, "classify a table, an image or a folder of images with a registered student")
    predict.add_argument("name")
    images = "a folder of images (one that cannot be read gets a row with its error; the command then ends with 2)"
    predict.add_argument("file", help=f".csv, .parquet, an image, or {images}")
    predict.add_argument("--version", default="champion", help="version number or alias")
    predict.add_argument("--out", type=Path, help="write a .csv or .parquet instead of printing")
    predict.add_argument("--keep", nargs="+", default=[], metavar="COLUMN", help="columns to hand through: an id")
    add("work", _work, "train for runs of other machines that share DISTILLERY_HOME, until ctrl-C")
    clean = add("clean", _clean, "remove stages that no recent run and no model version needs")
    clean.add_argument("--keep", type=int, default=3, metavar="N", help="what the last N runs of each name used; 3")
    clean.add_argument("--dry-run", action="store_true", help="print the same and remove nothing")
    clean.add_argument("--check", action="store_true", help="then read all files that are left, and compare checksums")
    add("doctor", _doctor, "what is installed, where things are stored, what is wrong")
    return whole


def _run(given: argparse.Namespace) -> None:
    console.print(plain(f"{given.config}: importing and starting"))
    from distillery.flows.servers.ephemeral import prefect_server

    with prefect_server() as ready:
        with importing():
            from distillery.config.config_file import load

            config = load(given.config, given.overrides)
            from distillery.flows.console.table import models_table, show
            from distillery.flows.environment import Places
            from distillery.flows.flow import pipeline
            from distillery.flows.tracking.runs import connect
            from distillery.stages.evaluation.record import EvaluationResult
        connect(Places.from_environment())  # makes a new database while Prefect's server makes its own
        ready()
        result = pipeline(config, given.part)
        if isinstance(result, EvaluationResult):
            console.print(models_table(config.name, result.test_rows, result.rows))
            return
        show(result, console)
    _name_page(Places.from_environment().runs / config.name)


def _check(given: argparse.Namespace) -> None:
    from distillery.flows.commands.check import found_in

    for line in found_in(given.config, given.overrides):
        console.print(plain(line))


def _report(given: argparse.Namespace) -> None:
    from distillery.flows.console.table import show
    from distillery.flows.environment import Places
    from distillery.stages.report.record import Report

    runs = Places.from_environment().runs
    file = runs / given.name / "report.json"
    if not file.is_file():
        existing = ", ".join(sorted(p.parent.name for p in runs.glob("*/report.json"))) or "none"
        raise InputError(f"report: expected the name of a finished run ({existing}), got {given.name!r}")
    if given.json:
        console.out(file.read_text(), highlight=False)
    else:
        show(Report.read(file.parent), console)
        _name_page(file.parent)


def _name_page(folder: Path) -> None:
    console.print(plain(f"with pictures: {folder / 'report.html'}"), soft_wrap=True)


def _history(given: argparse.Namespace) -> None:
    from dataclasses import asdict

    from distillery.flows.console import table
    from distillery.flows.tracking import history, registry

    client = _client()
    model = _registered(client, given.name, "history")
    entries = history.read(model.tags)
    if given.json:
        console.out(json.dumps([asdict(entry) for entry in entries], indent=1), highlight=False)
    else:
        aliases = {alias: int(model.aliases[alias]) for alias in registry.ALIASES if alias in model.aliases}
        console.print(table.history_table(given.name, entries, aliases))


def _promote(given: argparse.Namespace) -> None:
    from distillery.flows.tracking import lifecycle, registry

    client, places = _to_decide(given.name, "promote")
    version = registry.by_version(client, given.name, given.version)
    if version is None or registry.FINGERPRINT not in version.tags:
        raise InputError(f"promote: expected a version of {given.name!r} made by distillery, got {given.version}")
    if len(given.reason) > LONGEST_REASON:
        raise InputError(f"--reason: expected at most {LONGEST_REASON} characters, got {len(given.reason)}")
    with lifecycle.transaction(client, places, given.name) as transaction:
        transaction.promote(given.version, given.reason)
    console.print(plain(f"{given.name} version {given.version} is the champion"))


def _rollback(given: argparse.Namespace) -> None:
    from distillery.flows.tracking import lifecycle

    client, places = _to_decide(given.name, "rollback")
    with lifecycle.transaction(client, places, given.name) as transaction:
        before, now = transaction.rollback(given.reason)
    instead = "" if before is None else f", instead of version {before}"
    console.print(plain(f"{given.name} version {now} is the champion again{instead}"))


def _to_decide(name: str, command: str) -> tuple[MlflowClient, Places]:
    """(client, places), after everything that could be wrong with them was looked at."""
    from distillery.flows.environment import Places
    from distillery.flows.tracking import lock, registry

    places = Places.from_environment()
    lock.check_database(places)
    client = _client()
    _registered(client, name, command)
    registry.check_name(client, name)
    return client, places


def _registered(client: MlflowClient, name: str, command: str) -> RegisteredModel:
    from distillery.flows.tracking import registry

    model = registry.registered(client, name)
    if model is None:
        existing = ", ".join(registry.names(client)[:20]) or "none"
        raise InputError(f"{command}: expected the name of a registered model ({existing}), got {name!r}")
    return model


def _predict(given: argparse.Namespace) -> None:
    from distillery.flows.tracking import registry
    from distillery.prediction import predict_images
    from distillery.prediction import predict_table as predict

    running = registry.open_model(_client(), given.name, given.version)
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bars:
        bar = bars.add_task("rows", total=None)
        unread = predict_images.Unread(lambda line: bars.console.out(visible(line), highlight=False))

        def on_rows(done: int, total: int | None) -> None:
            bars.update(bar, completed=done, total=total)

        batches = predict.predict_file(running, Path(given.file), given.keep, on_rows, unread)
        predict.write(batches, given.out, lambda lines: console.out(lines, highlight=False, end=""))
    unread.check()


def _work(given: argparse.Namespace) -> None:
    from distillery.flows.environment import Places
    from distillery.flows.workers import jobs

    folder = Places.from_environment().store / "work"
    console.print(plain(f"waiting for work in {folder}"))
    jobs.work_anywhere(folder)


def _doctor(given: argparse.Namespace) -> None:
    from distillery.flows.servers.doctor import examine

    if not examine(console):
        raise InputError("doctor: something is wrong, see above")


def _clean(given: argparse.Namespace) -> None:
    from distillery.flows.commands import clean
    from distillery.flows.environment import Places

    places = Places.from_environment()
    clean.clean(places, _client(), console, keep=given.keep, dry_run=given.dry_run)
    if given.check and not clean.check(places, console):
        raise InputError("clean: stages are damaged, see above; each is computed again when it is next needed")


def _client() -> MlflowClient:
    from distillery.flows.environment import Places
    from distillery.flows.tracking.runs import connect

    return connect(Places.from_environment())


if __name__ == "__main__":
    program()
