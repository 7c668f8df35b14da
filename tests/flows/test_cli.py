"""The command as a user meets it: good news, and one line for every kind of bad input."""

import errno
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from distillery.flows.cli import main
from distillery.flows.failures import explain
from distillery.sources import table_feeds


def _fails(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("distillery: ") and "Traceback" not in error
    return error


def _config(folder: Path, tiny: Path, **data: object) -> str:
    tree = yaml.safe_load(tiny.read_text())
    if data:
        tree["data"] = data
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(tree))
    return str(path)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("search.trails=3", ["trails", "did you mean 'trials'"]),
        ("search.alpha=1.5", ["alpha", "[0, 1]", "1.5"]),
        ("search.temperature=0", ["temperature", "> 0"]),
        ("student.loss.name=kdd", ["loss", "kd", "'kdd'"]),
        ("data.source=digit", ["digits", "'digit'"]),
        ("teachers.members.mlp.family=timm", ["teachers.members.0", "timm"]),
        ("search.max_params=1", ["max_params=1", "small"]),
        ("gates=[{figure: acuracy, at_least: 1}]", ["gates.0", "did you mean 'accuracy'"]),
        ("data.split.test=5000", ["data.split", "1600"]),
    ],
)
def test_wrong_settings_are_named(
    override: str, words: list[str], home: Path, tiny: Path, prefect_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Contract of error messages: one line with the field, what was expected and what was got; exit code 2."""
    error = _fails(["run", str(tiny), override], capsys)
    assert all(word in error for word in words), error


def test_text_of_the_user_is_shown_as_it_is(
    home: Path, tiny: Path, prefect_server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Contract of the output: a path that rich would take for markup, a column that a terminal would obey, a secret."""
    pd.DataFrame({"x": np.arange(9.0), "a\n\x1b[2Jb": "x"}).to_csv(home / "rows.csv", index=False)
    config = _config(home, tiny, source="table", path=str(home / "rows.csv"), label="no hunter2")
    Path(config).rename(home / "[b]x.yaml")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2")
    with pytest.raises(SystemExit):
        main(["run", str(home / "[b]x.yaml")])
    shown = capsys.readouterr()
    assert "[b]x.yaml: importing and starting" in "".join(shown.out.splitlines())
    assert "'no ***'" in shown.err and "\x1b" not in shown.err and shown.err.count("\n") == 1


def test_wrong_tables_are_named(
    home: Path, tiny: Path, prefect_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Contract of error messages, for tables: missing column, missing label, one class, too few rows of a class."""
    frame = pd.DataFrame({"x": np.arange(100.0), "y": ["a", "b"] * 50})
    file = home / "rows.csv"

    def error(changed: pd.DataFrame, label: str = "y") -> str:
        changed.to_csv(file, index=False)
        return _fails(["run", _config(home, tiny, source="table", path=str(file), label=label)], capsys)

    assert "'target'" in error(frame, "target") and str(file) in error(frame, "target")
    assert "data row 5" in error(frame.assign(y=frame["y"].where(frame.index != 4)))
    assert "two classes, got 1" in error(frame.assign(y="a"))
    assert "at least 4 rows" in error(frame.assign(y=["rare", *["a", "b"] * 49, "a"]))
    assert "does not exist" in _fails(["run", _config(home, tiny, source="table", path="no.csv", label="y")], capsys)


def test_wrong_images_are_named(
    home: Path, tiny: Path, prefect_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Contract of error messages, for images: empty folder, and a truncated file before anything trains."""
    folder = home / "photos"
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
    assert "got none" in _fails(["run", _config(home, tiny, source="folder", path=str(folder))], capsys)
    generator = np.random.default_rng(0)
    for label in ("cat", "dog"):
        for number in range(20):
            pixels = generator.integers(0, 255, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    whole = (folder / "dog" / "3.png").read_bytes()
    (folder / "dog" / "3.png").write_bytes(whole[: len(whole) // 2])
    config = _config(home, tiny, source="folder", path=str(folder))
    error = _fails(["run", config, "teachers.members=[{name: m, family: mlp, hidden: [8]}]"], capsys)
    assert "dog/3.png" in error and "skip" in error


def test_given_logits_and_checkpoints_must_fit(
    home: Path, tiny: Path, prefect_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Contract of error messages: logits with the wrong number of rows or classes, checkpoint that is not there."""
    for shape, words in (((10, 2), "1600 rows of the data, got 10"), ((1600, 3), "2 classes")):
        np.savez(home / "logits.npz", logits=np.zeros(shape, np.float32))
        member = f"teachers.members=[{{name: ours, family: given, path: {home / 'logits.npz'}}}]"
        assert words in _fails(["run", str(tiny), member], capsys)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("student.loss.name=dist", ["student.loss", "'dist'", "3 classes, got 2"]),
        ("search.losses=[{name: kd}, {name: dist}]", ["search.losses.1", "'dist'", "3 classes, got 2"]),
        ("evaluation.groups=[x01, x1]", ["evaluation.groups", "got 'x1'", "did you mean 'x"]),
    ],
)
def test_what_only_the_rows_can_tell_is_said_before_training(
    override: str, words: list[str], home: Path, tiny: Path, prefect_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Contract of error messages: a loss that two classes leave dead, a group that is no column; nothing is trained."""
    error = _fails(["run", str(tiny), override], capsys)
    assert all(word in error for word in words), error
    assert {p.name for p in (home / ".distillery").iterdir()} == {"data"}


def test_an_unreachable_mlflow_is_said_at_once(
    home: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, prefect_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Contract of error messages: the address that does not answer."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    error = _fails(["run", str(tiny)], capsys)
    assert "http://127.0.0.1:9" in error and "MLFLOW_TRACKING_URI" in error


@pytest.mark.parametrize("address", ["postgresql://me:secret@127.0.0.1:9/db", "sqlite:///x.db", "me:secret@host"])
def test_a_database_that_cannot_hold_the_lock_is_said_at_once(
    address: str,
    home: Path,
    tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
    prefect_server: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Contract of error messages: the setting, not the password, and nothing is begun."""
    monkeypatch.setenv("DISTILLERY_DATABASE", address)
    error = _fails(["run", str(tiny)], capsys)
    assert "DISTILLERY_DATABASE: expected" in error and "secret" not in error
    assert not (home / ".distillery").exists()


def test_a_name_that_another_model_holds_is_said_at_once(
    home: Path, tiny: Path, prefect_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Contract of error messages: versions that something else registered under the experiment's name."""
    from distillery.flows.environment import Places
    from distillery.flows.tracking.runs import connect

    client = connect(Places.from_environment())
    client.create_registered_model("tiny")
    client.create_model_version("tiny", "file:///theirs")
    error = _fails(["run", str(tiny)], capsys)
    assert "name: expected" in error and "'tiny'" in error and not (home / ".distillery").exists()


def _wrapped() -> Exception:
    try:
        raise OSError(errno.ENOSPC, "No space left on device")
    except OSError as error:
        try:
            raise RuntimeError("writing failed") from error
        except RuntimeError as outer:
            return outer


@pytest.mark.parametrize("error", [_wrapped(), ValueError("I/O error: No space left on device (os error 28)")])
def test_a_full_disk_is_said_in_one_line(error: Exception) -> None:
    """Contract of error messages: the system's error is recognised through what libraries make of it."""
    problem, code = explain(error)
    assert "disk is full" in problem and code == 2
    assert explain(ValueError("something else")) == ("ValueError: something else (--debug shows where)", 1)


def test_run_report_predict_promote_rollback(
    home: Path, tiny: Path, tiny_run: tuple[Path, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Contract of the command: a run in two parts, its report, predictions from raw rows, a champion by hand.

    The stages of the run are finished; test_kill.py has the command compute them.
    """
    shutil.copytree(tiny_run[0], home, dirs_exist_ok=True)
    run = ["run", str(tiny)]
    printed = []
    for arguments in ([*run, "--part", "search"], [*run, "--part", "release"], ["report", "tiny"], ["doctor"]):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 0
        printed.append(capsys.readouterr().out)
    assert "tuned baseline" in printed[0] and "to use: " not in printed[0]
    shown = printed[1]
    assert "gap recovery against the tuned baseline: accuracy" in shown and "to use: " in shown
    rows = pd.DataFrame(np.random.default_rng(0).normal(size=(7, 20)), columns=[f"x{i:02d}" for i in range(20)])
    rows.to_csv(home / "new.csv", index=False)
    with pytest.raises(SystemExit):
        main(["predict", "tiny", str(home / "new.csv"), "--version", "1", "--out", str(home / "out.csv")])
    found = pd.read_csv(home / "out.csv", dtype={"label": str})
    assert list(found.columns) == ["label", "probability:0", "probability:1"] and len(found) == 7
    np.testing.assert_allclose(found[["probability:0", "probability:1"]].sum(axis=1), 1, atol=1e-5)
    rows.drop(columns="x03").to_csv(home / "bad.csv", index=False)
    assert "x03" in _fails(["predict", "tiny", str(home / "bad.csv"), "--version", "1"], capsys)
    with pytest.raises(SystemExit) as stopped:
        main(["promote", "tiny", "1", "--reason", "test"])
    assert stopped.value.code == 0
    assert "before version 1" in _fails(["rollback", "tiny"], capsys)
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["report", "tiny", "--json"])
    assert json.loads(capsys.readouterr().out)["name"] == "tiny"


def test_mlflow_answers_for_raw_rows(home: Path, tiny_run: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: `mlflow models predict` on the registered version gives what onnxruntime gives."""
    from distillery.flows.environment import Places
    from distillery.flows.tracking.registry import open_model
    from distillery.flows.tracking.runs import connect

    monkeypatch.setenv("DISTILLERY_HOME", str(tiny_run[0]))
    rows = pd.DataFrame(np.random.default_rng(1).normal(size=(5, 20)), columns=[f"x{i:02d}" for i in range(20)])
    rows.to_csv(home / "rows.csv", index=False)
    uri = Places.from_environment().tracking_uri
    command = ["mlflow", "models", "predict", "-m", "models:/tiny/1", "--env-manager", "local", "-t", "csv"]
    command += ["-i", str(home / "rows.csv"), "-o", str(home / "out.json")]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri}
    subprocess.run([sys.executable, "-m", *command], check=True, env=environment, cwd=home, capture_output=True)
    answers = json.loads((home / "out.json").read_text())["predictions"]
    running = open_model(connect(Places.from_environment()), "tiny", "1")
    feeds = table_feeds(rows)
    expected = running.run(["probability:1"], feeds)[0]
    np.testing.assert_allclose([a["probability:1"] for a in answers], expected, atol=1e-6)


ENDS = """
import atexit, sys, threading, time
from distillery.flows import cli

def main():
    threading.Thread(target=lambda: (time.sleep(0.3), print("a thread", flush=True))).start()
    atexit.register(print, "last words")
    print("work")
    if sys.argv[1] == "error":
        raise ValueError("unforeseen")
    sys.exit(None if sys.argv[1] == "none" else int(sys.argv[1]))

cli.main = main
cli.program()
"""


@pytest.mark.parametrize(("given", "code"), [("0", 0), ("2", 2), ("none", 0), ("error", 1)])
def test_the_command_says_everything_before_it_ends(given: str, code: int) -> None:
    """contract: threads end, what was registered for the end is called, pipes get all of it; the code is main's."""
    found = subprocess.run([sys.executable, "-c", ENDS, given], capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (code, "work\na thread\nlast words\n")
    assert ("ValueError: unforeseen" in found.stderr) == (given == "error")


def test_a_reader_that_goes_away_is_no_error() -> None:
    """contract: as in ``distillery history NAME | head -1``."""
    program = [sys.executable, "-c", ENDS.replace(", flush=True", ""), "0"]
    environment = {
        k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"
    }  # with it each line is written at once
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as run:
        assert run.stdout is not None and run.stderr is not None
        run.stdout.close()
        said = run.stderr.read()
    assert (run.returncode, said) == (0, "")


def test_the_command_tells_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    """contract: it is the version of the installed package."""
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"distillery {importlib.metadata.version('distillery')}\n"
