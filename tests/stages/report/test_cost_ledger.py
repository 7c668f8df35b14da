"""The ledger, against figures made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rows import a_row
from trials import a_trial

from distillery.config.config_file import parse
from distillery.config.experiment import Experiment, Recipe
from distillery.stages.report import cost_ledger
from distillery.stages.report.cost_ledger import Caching, Counts, Runtimes, StageSeconds
from distillery.stages.roles import Role
from distillery.store import Handle

TRIALS = [
    a_trial(state="complete", curve={2: 0.5}),
    a_trial(state="stopped", curve={2: 0.9, 4: 0.8}),
    a_trial(state="fail", curve={}),
]


def handle(stage: str, name: str, seconds: float, *, cached: bool = False, rows: int = 0, lost: int = 0) -> Handle:
    """A stage that took so long; of logits, `lost` rows were labelled by an earlier run."""
    metrics = {"rows": rows, "rows_computed": rows - lost}
    return Handle(stage, name, f"/store/{stage}/{name}", "0", metrics, seconds, cached)


@pytest.fixture
def config(tree: dict[str, Any]) -> Experiment:
    """Two members that run and one with given logits; batches of 32, 5 epochs, trials of 10."""
    tree["teachers"]["members"] = [
        {"name": "a-b", "family": "mlp", "hidden": [8]},
        {"name": "c", "family": "mlp", "hidden": [8]},
    ]
    tree["search"]["epochs"] = 10
    return parse(tree)


@pytest.fixture
def handles(tmp_path: Path) -> list[Handle]:
    """Logits of both members, a student of five epochs and a baseline."""
    found = [
        handle("logits", "a-b-transfer", 4.0, rows=200),
        handle("logits", "a-b-test", 1.0, rows=100),
        handle("logits", "c-transfer", 2.0, rows=200, cached=True),
        handle("logits", "c-test", 3.0, rows=100),
    ]
    for name, epochs in (("small-student", 5), ("small-baseline", 70)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "history.json").write_text(json.dumps([{"train_loss": 1.0}] * epochs))
        found.append(Handle("students", name, str(folder), name, {}, 10.0))
    return found


def test_an_epoch_shows_whole_batches() -> None:
    """golden: 100 rows make three batches of 32, 20 rows one of 20."""
    recipe = Recipe(batch_size=32)
    assert [cost_ledger.items_per_epoch(rows, recipe) for rows in (100, 20, 64)] == [96, 20, 64]


def test_a_trial_counts_the_epochs_that_it_trained() -> None:
    """golden: all, those of the last rung, none."""
    assert [cost_ledger.epochs_of_trial(trial, 10) for trial in TRIALS] == [10, 4, 0]


def test_passes_are_counted_by_hand(config: Experiment, handles: list[Handle]) -> None:
    """golden: 2 members, 96 items, 10 + 4 + 0 epochs of trials and 5 of the student; the baseline has no teacher."""
    found = cost_ledger.passes(config, 100, TRIALS, [*handles, handles[0]])
    assert (found.made, found.elsewhere) == (400, 200)
    assert found.epochs == Counts(trials=14, students=5) and found.trained == Counts(trials=3, students=1)
    assert found.in_the_loop == 2 * 96 * 19


def test_given_logits_are_no_passes(config: Experiment, handles: list[Handle]) -> None:
    """contract: a member that cannot be run is in no count."""
    members = [config.teachers.members[0], config.teachers.members[1].model_copy(update={"family": "given"})]
    given = config.model_copy(update={"teachers": config.teachers.model_copy(update={"members": tuple(members)})})
    found = cost_ledger.passes(given, 100, TRIALS, handles)
    assert (found.members, found.made, found.in_the_loop) == (1, 200, 96 * 19)


def test_what_caching_saved_by_hand(config: Experiment, handles: list[Handle]) -> None:
    """golden: a pass takes 1/100 s of the one and 2/200 s of the other, at their fastest."""
    counted = cost_ledger.passes(config, 100, TRIALS, handles)
    found = cost_ledger.caching(config, counted, handles)
    per_epoch = 96 * (0.01 + 0.01)
    assert found.labelling == 6.0 and found.in_the_loop == pytest.approx(per_epoch * 19)
    assert found.saved == pytest.approx(per_epoch * 19 - 6)
    assert found.epochs_until_paid == pytest.approx(6 / per_epoch)
    assert found.students_until_paid == pytest.approx(6 / per_epoch / 5)


def test_nothing_is_said_of_a_labelling_that_was_cut_off(config: Experiment, handles: list[Handle]) -> None:
    """contract: seconds of half the rows are no measurement of all."""
    handles[0] = handle("logits", "a-b-transfer", 4.0, rows=200, lost=50)
    counted = cost_ledger.passes(config, 100, TRIALS, handles)
    assert cost_ledger.caching(config, counted, handles) == Caching()


def test_serving_pays_after_so_many_answers() -> None:
    """golden: 30 s over 2 ms each are 15,000; never where the student is not faster or the ensemble cannot run."""
    for slow, expected in ((2.5, 15_000), (0.5, None), (None, None)):
        rows = [
            a_row(Role.ENSEMBLE, latency_ms_p50=99.0, runtime="onnxruntime"),
            a_row(Role.ENSEMBLE, chosen=True, latency_ms_p50=slow, runtime="torch"),
            a_row(Role.TUNED, chosen=True, latency_ms_p50=0.5, runtime="onnxruntime"),
        ]
        found = cost_ledger.serving(rows, 30.0)
        assert found.predictions_until_paid == expected
        assert found.runtimes == Runtimes(ensemble="torch", candidate="onnxruntime")


def test_seconds_are_told_by_where_they_came_from() -> None:
    """golden: each result once, computed now if it was in any of its handles; money is by the hour."""
    seen = [handle("a", "1", 2.0, cached=True), handle("a", "1", 2.0), handle("a", "2", 3.0, cached=True)]
    assert cost_ledger.stages(seen) == {"a": StageSeconds(parts=2, computed=2.0, found=3.0)}
    assert cost_ledger.stages(reversed(seen)) == cost_ledger.stages(seen)
    assert cost_ledger.price(900, 2.0) == 0.5
