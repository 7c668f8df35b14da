"""From candidate to champion and back, on a real sqlite MLflow; quality is known, so every verdict can be told."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from distillery.config.data import Data
from distillery.errors import InputError
from distillery.flows.cli import main
from distillery.flows.environment import Places
from distillery.flows.tracking import registry
from distillery.flows.tracking.history import Entry, decisions
from distillery.flows.tracking.lifecycle import transaction
from distillery.sources import Rows
from distillery.stages.data.dataset import Dataset
from distillery.stages.data.preparation import prepare
from distillery.stages.data.split_identity import split_digest
from distillery.stages.data.split_identity import test_rows_digest as rows_digest
from distillery.stages.promotion import judgement
from distillery.stages.promotion.decision import Decision
from distillery.stages.promotion.judgement import Champion
from distillery.stages.promotion.record import DecisionCount
from distillery.store import Handle, Store


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """(exit code, what was printed) of a command."""

    def run(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as stopped:
            main(list(arguments))
        shown = capsys.readouterr()
        return int(stopped.value.code or 0), shown.out + shown.err

    return run


def test_only_a_better_version_takes_the_place_of_the_champion(model: Any) -> None:
    """Contract of the aliases: the champion before keeps `previous`, and every version says where it stands."""
    for quality in (0.1, 0.3, 0.2):
        model.propose(model.version(quality))
    assert model.aliases == (2, 1)
    assert model.history == [("promoted", 1, None), ("promoted", 2, 1), ("rejected", 3, 2)]
    assert [model.tags(v)["standing"] for v in (1, 2, 3)] == ["replaced by version 2", "champion", "rejected"]


def test_a_decision_is_made_once_for_one_champion_and_one_set_of_gates(model: Any) -> None:
    """Contract: proposed again, a version is not judged again, unless what it was judged by has changed."""
    good, bad = model.version(0.2), model.version(0.1)
    first = [model.propose(v) for v in (good, bad)]
    assert [model.propose(v) for v in (good, bad)] == first and model.judged == [(1, None), (2, 1)]
    model.propose(bad, rules="other gates")
    assert model.judged[2:] == [(2, 1)]
    model.propose(model.version(0.3))
    model.propose(bad, rules="other gates")
    assert model.judged[3:] == [(3, 1), (2, 3)] and model.aliases == (3, 1)


def test_an_old_verdict_moves_no_alias(model: Any) -> None:
    """Never a worse champion: the run that made a past champion, repeated, leaves the better one where it is."""
    old, better = model.version(0.1), model.version(0.2)
    assert model.propose(old).promoted and model.propose(better).promoted
    again = model.propose(old)
    assert model.aliases == (better, old) and not again.promoted
    assert "was the champion, replaced by version 2" in again.reasons[-1]
    assert not model.propose(old, rules="other gates").promoted and model.aliases == (better, old)
    assert len(model.entries) == 2


def test_every_decision_says_who_when_and_from_what(model: Any) -> None:
    """Contract of the record: whole on the version, short in the history, in words in its description."""
    reasons = [f"gate {n}: {'x' * 300}" for n in range(40)]
    version = model.version(0.1)
    with transaction(model.client, Places.from_environment(), model.name) as mine:
        mine.decide(version, "gates", lambda _: Decision(True, reasons), flow_run="a run")
    (entry,), stored = model.entries, json.loads(model.tags(version)["decision"])
    assert stored["reasons"] == reasons and len(entry.reasons) < 40
    assert {k: stored[k] for k in ("when", "who", "flow_run", "data", "commit")} == {
        "when": entry.when,
        "who": entry.who,
        "flow_run": "a run",
        "data": "rows of May",
        "commit": entry.commit,
    }
    assert entry.when.endswith("+00:00") and "@" in entry.who
    text = model.client.get_model_version(model.name, str(version)).description
    assert text.startswith(f"Promoted by {entry.who}, {entry.when}:") and len(text) == 5000


def test_rollback_restores_the_champion_before(model: Any) -> None:
    """Contract of rollback: `previous` changes sides; what was withdrawn stays so until a person promotes it."""
    for quality in (0.1, 0.2):
        model.propose(model.version(quality))
    with transaction(model.client, Places.from_environment(), model.name) as mine:
        assert mine.rollback("slow") == (2, 1)
    assert model.aliases == (1, 2) and model.tags(2)["standing"] == "rolled back to version 1"
    for rules in ("gates", "other gates"):
        nightly = model.propose(2, rules)
        assert not nightly.promoted and "rolled back to version 1" in nightly.reasons[-1]
    assert model.aliases == (1, 2)
    with transaction(model.client, Places.from_environment(), model.name) as mine:
        with pytest.raises(InputError, match="not rolled back itself, got version 2"):
            mine.rollback("")
        mine.promote(2, "mended")
    assert model.aliases == (2, 1)
    assert model.history[2:] == [("rolled back", 1, 2), ("promoted by hand", 2, 1)]
    assert model.entries[2].reasons == ["slow"]


def test_after_a_rollback_the_next_candidate_is_compared_with_the_restored_one(model: Any) -> None:
    """Never a worse champion: the version that was withdrawn is no rival any more."""
    for quality in (0.1, 0.4):
        model.propose(model.version(quality))
    middle = model.version(0.2)
    assert not model.propose(middle).promoted
    with transaction(model.client, Places.from_environment(), model.name) as mine:
        mine.rollback("")
    assert model.propose(middle).promoted and model.judged[-1] == (3, 1) and model.aliases == (3, 1)


def test_commands_tell_the_history(model: Any, command: Callable[..., tuple[int, str]]) -> None:
    """Contract of the command: history as a table and as JSON, promotion and rollback with their reasons."""
    for quality in (0.2, 0.1):
        model.propose(model.version(quality))
    assert command("promote", model.name, "2", "--reason", "smaller [and faster]") == (
        0,
        f"{model.name} version 2 is the champion\n",
    )
    assert command("rollback", model.name, "--reason", "it was wrong") == (
        0,
        f"{model.name} version 1 is the champion again, instead of version 2\n",
    )
    code, shown = command("history", model.name)
    words = ("champion version 1, previous version 2", "promoted by hand", "rolled back", "rejected", "it was")
    assert code == 0 and all(word in shown for word in words), shown
    code, raw = command("history", model.name, "--json")
    assert [Entry(**e) for e in json.loads(raw)] == model.entries
    assert json.loads(raw)[2]["reasons"] == ["by hand: smaller [and faster]"]


def test_commands_name_what_is_wrong(
    model: Any, command: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Contract of error messages: unknown model, nothing to return to, unknown version; one line each."""
    for arguments in (["history", "nosuch"], ["rollback", "nosuch"], ["promote", "nosuch", "1", "--reason", "x"]):
        code, error = command(*arguments)
        assert code == 2 and error.count("\n") == 1 and "'nosuch'" in error and model.name in error
    assert "expected a champion of" in command("rollback", model.name)[1]
    model.propose(model.version(0.1))
    assert "before version 1" in command("rollback", model.name)[1]
    assert "got 9" in command("promote", model.name, "9", "--reason", "x")[1]
    assert "2000 characters" in command("promote", model.name, "1", "--reason", "x" * 2001)[1]
    monkeypatch.setenv("DISTILLERY_DATABASE", "mysql://me:secret@nowhere/db")
    code, error = command("rollback", model.name)
    assert code == 2 and "DISTILLERY_DATABASE" in error and "secret" not in error
    assert [e.action for e in model.entries] == ["promoted"]


def test_a_name_that_something_else_holds_is_refused(model: Any, command: Callable[..., tuple[int, str]]) -> None:
    """Contract of error messages: said by every command, and by a run before anything trains."""
    registry.check_name(model.client, model.name)
    model.client.create_model_version(model.name, "file:///theirs")
    for arguments in (["rollback", model.name], ["promote", model.name, "1", "--reason", "x"]):
        code, error = command(*arguments)
        assert code == 2 and error.count("\n") == 1 and "distillery did not make" in error
    model.version(0.1)
    registry.check_name(model.client, model.name)
    model.client.set_registered_model_alias(model.name, "champion", "1")
    with pytest.raises(InputError, match="champion, version 1, distillery did not make"):
        registry.check_name(model.client, model.name)


def test_a_store_that_does_not_answer_is_not_one_without_a_champion(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never a worse champion: an error while the champion is looked up stops the decision."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    unreachable = MlflowClient("http://127.0.0.1:9", "http://127.0.0.1:9")
    for look in (
        lambda: registry.registered(unreachable, "m"),
        lambda: registry.by_alias(unreachable, "m", "champion"),
        lambda: registry.find_version(unreachable, "m", "f"),
    ):
        with pytest.raises(Exception, match="Max retries"):
            look()


def test_doctor_misses_a_champion_that_was_deleted(model: Any, command: Callable[..., tuple[int, str]]) -> None:
    """Contract of the doctor; and the version before it can be restored all the same."""
    for quality in (0.1, 0.2):
        model.propose(model.version(quality))
    assert model.name not in command("doctor")[1]
    model.client.delete_model_version(model.name, "2")
    assert model.aliases == (None, 1)
    code, shown = command("doctor")
    assert code == 2 and model.name in shown and "version 2 was the champion and is gone" in " ".join(shown.split())
    assert command("rollback", model.name)[0] == 0
    assert model.aliases == (1, None) and model.history[-1] == ("rolled back", 1, None)
    assert model.name not in command("doctor")[1]


def table(**columns: list[Any]) -> Rows:
    """Rows of a table with these columns and two classes."""
    frame = pd.DataFrame(columns)
    return Rows("table", np.arange(len(frame)) % 2, "digest", frame=frame)


def doubts(model: Any, champion: int, data: str, rows: Rows, **split: Any) -> list[str]:
    """What is said of the champion on data of this fingerprint, split so."""
    given = Data(source="table", path="rows.csv", label="class", split=split)
    tags = model.client.get_model_version(model.name, str(champion)).tags
    session: Any = None  # it is not asked
    return judgement.doubts(given, Champion(champion, session, tags), Handle("data", "table", "", data), rows)


def test_a_champion_of_other_data_is_doubted(model: Any) -> None:
    """Contract: where a champion may have learned from test rows the decision says so, and names the remedy."""
    champion, rows = model.version(1.0), table(x=[1.0, 2.0])
    assert doubts(model, champion, "rows of May", rows) == []
    (told,) = doubts(model, champion, "rows of June", rows)
    assert "champion version 1 is in doubt: it is of other data" in told and "data.split.order 'hashed'" in told


def test_a_champion_whose_rows_were_hashed_otherwise_is_doubted(model: Any) -> None:
    """Contract: more rows alone raise no doubt; a column, its kind, the seed, the shares or an option do."""
    champion, rows = model.version(1.0), table(x=[1.0, 2.0])
    hashed = {"order": "hashed"}
    (told,) = doubts(model, champion, "rows of June", rows, **hashed)
    assert "does not say how its rows were split" in told
    given = Data(source="table", path="elsewhere.csv", label="class", split=hashed)
    model.client.set_model_version_tag(model.name, str(champion), "dealing", split_digest(given, rows))
    assert doubts(model, champion, "rows of June", table(x=[1.0, 2.0, 3.0]), **hashed) == []
    for changed, split in (
        (table(x=[1.0, 2.0], y=[1, 2]), hashed),
        (table(x=["1", "a"]), hashed),
        (table(z=[1.0, 2.0]), hashed),
        (rows, {**hashed, "seed": 1}),
        (rows, {**hashed, "test": 0.3}),
    ):
        (told,) = doubts(model, champion, "rows of June", changed, **split)
        assert "its rows were split otherwise" in told and "favours it" in told
    other = Data(source="table", path="elsewhere.csv", label="class", split=hashed, missing=["?"])
    assert split_digest(other, rows) != split_digest(given, rows)


def test_test_rows_are_known_again_whatever_is_trained_on(tmp_path: Path) -> None:
    """property: a row more in another split leaves their digest as it is; one more among them does not."""
    given, store = Data(source="table", path="rows.csv", label="class", split={"order": "hashed"}), Store(tmp_path)

    def opened(count: int) -> tuple[np.ndarray, str]:
        rows = replace(table(x=[float(n) for n in range(count)]), digest=f"{count} rows")
        data = prepare(given, rows, store)
        return Dataset(data).splits["test"], rows_digest(data, rows)

    sizes = range(80, 100)
    found = [opened(count) for count in sizes]
    for (before, digest), (after, other) in pairwise(found):
        assert (digest == other) is (len(before) == len(after))
    assert 1 < len({digest for _, digest in found}) < len(sizes)


def test_decisions_by_the_same_test_rows_are_counted(model: Any) -> None:
    """Contract of the history: every entry knows its version's test rows; those of other rows count in all alone."""
    for quality, rows in ((0.1, "may"), (0.2, "may"), (0.1, "june")):
        version = model.version(quality)
        model.client.set_model_version_tag(model.name, str(version), "test_rows_content", rows)
        model.propose(version)
    with transaction(model.client, Places.from_environment(), model.name) as mine:
        mine.rollback("")
    assert [e.test_rows for e in model.entries] == ["may", "may", "june", "may"]
    assert decisions(model.entries, "may") == DecisionCount(same_rows=2, all=3)
    assert decisions(model.entries, "july") == DecisionCount(same_rows=0, all=3)
