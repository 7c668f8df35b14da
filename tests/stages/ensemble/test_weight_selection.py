"""Stage `ensemble`: the choice among the candidates, on made-up votes and on real models."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import sem
from sklearn.datasets import load_digits
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.tree import DecisionTreeClassifier
from tiny_chain import Chain

from distillery.config.experiment import Ensemble, Weighting
from distillery.errors import InputError
from distillery.ops import metrics
from distillery.stages.ensemble import weight_selection as stage
from distillery.stages.ensemble.crossfit import Judged, gain
from distillery.stages.ensemble.record import CandidateRow, EnsembleChoice
from distillery.stages.ensemble.weight_selection import (
    active,
    candidates,
    choose,
    chosen,
    label,
    optimize_weights,
    pool_logits,
    pooling_of,
    teacher_logits,
)
from distillery.stages.logits.logit_cache import read_logits
from distillery.store import Handle, Store

QUICK = Ensemble(weightings=tuple(Weighting(name=name) for name in ("uniform", "convex")))
STACKING = Ensemble(weightings=(Weighting(name="stacking", strength=10),))


def votes(seed: int, skill: tuple[float, ...] = (1.0, 0.5, 0.8), rows: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Logits [M, N, 3] of members whose signal is as strong as `skill` says, and labels."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, rows)
    signal = np.array(skill)[:, None, None] * np.eye(3)[labels]
    return (signal + generator.normal(size=signal.shape)).astype(np.float32), labels


def chosen_of(logits: np.ndarray, labels: np.ndarray, config: Ensemble) -> tuple[EnsembleChoice, CandidateRow]:
    """(ensemble.json, its row in use)."""
    content = choose(logits, labels, config, [f"m{i}" for i in range(len(logits))])
    return content, content.used


def saved(content: EnsembleChoice, store: Store) -> Handle:
    """A stage with this ensemble.json."""

    def build(work: Any) -> dict[str, Any]:
        content.write(work)
        return {}

    return store.stage("ensemble", "ensemble", [content], build)


def digits(models: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Logits [M, 1297, 10] of models fitted on 500 of scikit-learn's digits, and labels, for the other rows."""
    inputs, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    inputs, labels = inputs[order], labels[order]
    probs = [m.fit(inputs[:500], labels[:500]).predict_proba(inputs[500:]) for m in models]
    return np.log(np.maximum(probs, 1e-6)), labels[500:]


def test_copies_of_one_member_stay_uniform() -> None:
    """golden: where no weighting can win, uniform weights with probability pooling stay."""
    logits, labels = votes(1)
    content, used = chosen_of(np.stack([logits[0]] * 4), labels, QUICK)
    assert (used.weighting, used.pool) == ("uniform", "probs")
    assert used.weights == [0.25] * 4 and content.reason.startswith("uniform weights, probs pool")


def test_a_gain_that_may_be_chance_is_not_taken() -> None:
    """property: another candidate is used only if it is the best and the lower bound of its gain is above zero."""
    used_others = 0
    for seed in range(8):
        logits, labels = votes(seed, rows=60)
        content, _ = chosen_of(logits, labels, QUICK)
        table = content.table
        best = min(range(len(table)), key=lambda i: table[i].nll)
        taken = table[best].nll_gain_low > 0
        assert content.chosen == (best if taken or best == 0 else 0)
        assert ("may be chance" in content.reason) == (best != 0 and not taken)
        used_others += content.chosen != 0
    assert 0 < used_others < 8


def test_a_gain_is_told_with_its_standard_error() -> None:
    """reference: scipy's standard error of the mean difference of paired rows."""
    logits, labels = votes(2)
    none = np.empty(0)
    a, b = (Judged(none, none, none, 1.0, *[metrics.row_scores(z, labels)] * 2) for z in logits[:2])
    difference = metrics.row_nll(logits[0], labels) - metrics.row_nll(logits[1], labels)
    error = sem(difference, ddof=0)
    assert gain(a, b) == pytest.approx((difference.mean(), difference.mean() - error, difference.mean() + error))


def test_weights_are_compared_without_temperature_and_linear_maps_with_it() -> None:
    """reference: the gain of weights is one of plain logits, that of a linear map one of what would be used."""
    logits, labels = votes(2)
    plain, sharp = logits[0], logits[1]
    scores = [metrics.row_scores(z, labels) for z in logits]
    before = Judged(np.ones(2) / 2, np.ones(2) / 2, np.ones(2) / 2, 0.5, *scores[:2])
    for weights, pairs in ((np.ones(2) / 2, (plain, logits[2])), (np.ones((5, 2)), (sharp, logits[2]))):
        after = Judged(np.arange(2), weights, weights, 1.0, scores[2], scores[1])
        losses = [metrics.row_nll(z, labels) for z in pairs]
        assert gain(before, after)[0] == pytest.approx((losses[0] - losses[1]).mean())


def test_a_useless_member_is_weighed_down() -> None:
    """golden: beside noise that is sure of itself, uniform weights lose by more than a standard error."""
    logits, labels = votes(3, skill=(2.0, 2.0, 0.0))
    logits[2] *= 5
    _, used = chosen_of(logits, labels, QUICK)
    assert used.weighting != "uniform" and used.weights[2] < 0.1
    assert used.nll_gain_low > 0


@pytest.fixture(scope="module")
def mixed() -> tuple[np.ndarray, np.ndarray]:
    """Able models of scikit-learn beside a shallow tree and one that does not look at the rows."""
    able = [ExtraTreesClassifier(20, random_state=0), KNeighborsClassifier(5), GaussianNB(var_smoothing=1e-2)]
    return digits([*able, DecisionTreeClassifier(max_depth=4, random_state=0), DummyClassifier()])


def test_learned_weights_beat_uniform_where_some_models_are_bad(mixed: tuple[np.ndarray, np.ndarray]) -> None:
    """golden: real models of unlike skill: another candidate is adopted, and on rows never seen its NLL is lower."""
    logits, labels = mixed
    content, used = chosen_of(logits[:, :400], labels[:400], Ensemble())
    assert used.weighting != "uniform" and used.nll_gain_low > 0
    plain = next(r for r in content.table if (r.weighting, r.pool) == ("uniform", "probs"))
    on_test = [metrics.row_nll(pooling_of(r).apply(logits[:, 400:]), labels[400:]).mean() for r in (plain, used)]
    assert on_test[1] < on_test[0]
    assert content.left_out == {"stacking": "expected at least 500 rows in val_ensemble, got 400"}


def test_uniform_loses_nothing_where_models_are_alike() -> None:
    """golden: real models that differ in their seed: on rows never seen, what is used is no worse than uniform."""
    logits, labels = digits([ExtraTreesClassifier(20, max_depth=6, random_state=seed) for seed in range(6)])
    content, used = chosen_of(logits[:, :400], labels[:400], Ensemble())
    rows = (used, content.table[0])
    on_test = [metrics.row_nll(pooling_of(r).apply(logits[:, 400:]), labels[400:]).mean() for r in rows]
    assert on_test[0] < on_test[1] + 0.002
    # the mean of shallow trees is timid: one temperature after pooling pays
    assert used.temperature < 0.8 and used.nll == used.nll_calibrated < used.nll_plain


def test_a_temperature_that_may_be_chance_is_not_taken() -> None:
    """property: on a hundred rows, a pool that is calibrated keeps temperature 1; figures are those of what is used."""
    adopted = []
    for seed in range(10):
        generator = np.random.default_rng(seed)
        logits = np.log(generator.dirichlet([1, 1, 1], 100))
        labels = np.array([generator.choice(3, p=np.exp(row)) for row in logits])
        _, used = chosen_of(np.stack([logits, logits]), labels, QUICK)
        adopted.append(used.temperature != 1)
        assert used.nll == (used.nll_calibrated if adopted[-1] else used.nll_plain)
    assert sum(adopted) <= 1


def test_pruning_is_told_and_applied_only_on_demand() -> None:
    """contract: kept and dropped members are all members; with `prune` the dropped ones have weight zero."""
    logits, labels = votes(4, skill=(2.0, 2.0, 0.0), rows=500)
    logits = np.concatenate([logits, logits[:1]])
    config = QUICK.model_copy(update={"prune_tolerance": 0.01})
    told, _ = chosen_of(logits, labels, config)
    pruning = told.pruning
    assert pruning is not None
    assert not pruning.applied and sorted(pruning.kept + pruning.dropped) == ["m0", "m1", "m2", "m3"]
    assert pruning.dropped and pruning.cost_saved == len(pruning.dropped) / 4
    assert pruning.nll_loss_high < 0.01 and pruning.nll_after - pruning.nll_before == pruning.nll_loss
    applied, smaller = chosen_of(logits, labels, config.model_copy(update={"prune": True}))
    assert applied.pruning == pruning.model_copy(update={"applied": True}) and applied.chosen == told.chosen
    assert [weight > 0 for weight in smaller.weights] == [f"m{i}" in pruning.kept for i in range(4)]
    assert np.isclose(sum(smaller.weights), 1) and "members kept" in applied.reason


def test_what_stacking_is_told_as(store: Store) -> None:
    """contract: a row has one number per member beside the map; all members count, none is pruned."""
    logits, labels = votes(5)
    content, used = chosen_of(logits, labels, STACKING)
    assert np.isclose(sum(used.weights), 1) and len(used.weights) == 3
    assert np.shape(used.coefficients) == (10, 3)
    assert content.pruning is None and "every member" in content.pruning_note
    assert content.diversity.pooling == "uniform weights, probs pool"
    handle = saved(content, store)
    assert active(handle) == ["m0", "m1", "m2"] and label(handle) == "stacking-logits"
    expected = pool_logits(logits, np.array(used.coefficients), "logits", used.temperature)
    assert np.array_equal(chosen(handle).apply(logits), expected)


def test_rows_that_do_not_suffice_are_told() -> None:
    """contract: a weighting that the config names is refused with the rows it needs; a default one is left out."""
    named = Ensemble(weightings=tuple(Weighting(name=n) for n in ("uniform", "convex", "stacking")))
    with pytest.raises(InputError) as caught:
        candidates(named, 12, 2, 239)
    assert str(caught.value) == (
        "ensemble.weightings.2 (stacking): expected at least 240 rows in val_ensemble for 12 members and 2 classes, "
        "got 239; a larger data.split.val_ensemble or another weighting would do"
    )
    names = [(c.weighting.name, c.pool) for c in candidates(named, 12, 2, 240)[0]]
    assert names == [(w, p) for w in ("uniform", "convex") for p in ("probs", "logits")] + [("stacking", "logits")]
    found, left_out = candidates(Ensemble(), 12, 2, 100)
    assert {c.weighting.name for c in found} == {"uniform"}
    least = {"convex": 120, "greedy": 120, "stacking": 240}
    assert left_out == {name: f"expected at least {n} rows in val_ensemble, got 100" for name, n in least.items()}


def test_every_candidate_is_judged_on_rows_it_was_not_fitted_on(chain: Chain) -> None:
    """reference: uniform weights need no fitting, so their plain row is the quality of the mean on all rows."""
    logits = np.stack([read_logits(h) for h in chain.logits["val_ensemble"]])
    labels = chain.dataset.labels("val_ensemble")
    table = EnsembleChoice.read(chain.ensemble).table
    pooled = [(w, p) for w in ("uniform", "convex", "greedy") for p in ("probs", "logits")]
    assert [(r.weighting, r.pool) for r in table] == [*pooled, ("stacking", "logits")]
    for row in table[:2]:
        expected = metrics.quality(pool_logits(logits, np.full(3, 1 / 3), row.pool), labels)
        assert row.nll_plain == pytest.approx(expected["nll"])
        assert row.accuracy == pytest.approx(expected["accuracy"])
    assert all(np.isclose(sum(r.weights), 1) for r in table)
    gains = [r.nll_gain for r in table]
    assert gains == pytest.approx([table[0].nll - r.nll for r in table])


def test_the_members_diversity_is_that_of_the_ensemble_in_use(chain: Chain) -> None:
    """reference: NLL of the pool in use, on the rows of val_ensemble, without a temperature; the file holds no NaN."""
    content = EnsembleChoice.read(chain.ensemble)
    logits = np.stack([read_logits(h) for h in chain.logits["val_ensemble"]])
    row, found = content.used, content.diversity
    pooled = pool_logits(logits, np.array(row.weights), row.pool)
    if row.weighting != "stacking":
        labels = chain.dataset.labels("val_ensemble")
        assert found.ensemble_nll == pytest.approx(metrics.row_nll(pooled, labels).mean())
    assert found.rows == 150 and found.ambiguity >= 0 and len(found.without) == 3
    assert json.dumps(content.model_dump(), allow_nan=False)


def test_what_the_chain_goes_on_with(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """reference: weights, pool, temperature and targets of later stages are those of the chosen row."""
    content = EnsembleChoice.read(chain.ensemble)
    row, pooling = content.used, chosen(chain.ensemble)
    assert content.members == ["mlp-00", "mlp-01", "mlp-02"]
    assert chain.ensemble.metrics == {"nll": row.nll, "accuracy": row.accuracy}
    assert (pooling.pool, pooling.temperature) == (row.pool, row.temperature)
    stacked = np.stack([read_logits(h) for h in chain.logits["test"]])
    found = teacher_logits(chain.ensemble, chain.logits["test"])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, pooling_of(row).apply(stacked), rtol=1e-6)
    monkeypatch.setattr(stage, "BLOCK_BYTES", 7 * stacked[:, 0].size * 8)
    assert np.array_equal(teacher_logits(chain.ensemble, chain.logits["test"]), found)


def test_targets_need_the_active_members_alone(chain: Chain, store: Store) -> None:
    """property: logits of the active members, in order, give the targets that logits of all give; fewer are refused."""
    given = {
        "weighting": "convex",
        "pool": "probs",
        "weights": [0.3, 0.0, 0.7],
        "temperature": 1.5,
        "coefficients": None,
    }
    content = EnsembleChoice.read(chain.ensemble)
    row = content.used.model_copy(update=given)
    handle = saved(content.model_copy(update={"table": [row], "chosen": 0, "pruning": None}), store)
    assert active(handle) == ["mlp-00", "mlp-02"] and label(handle) == "convex-probs"
    handles = chain.logits["test"]
    expected = pooling_of(row).apply(np.stack([read_logits(h) for h in handles])).astype(np.float32)
    assert np.array_equal(teacher_logits(handle, handles), expected)
    assert np.array_equal(teacher_logits(handle, [handles[0], handles[2]]), expected)
    with pytest.raises(AssertionError, match="expected logits of mlp-00, mlp-02"):
        teacher_logits(handle, handles[:1])


def test_candidates_are_the_configs(chain: Chain, store: Store) -> None:
    """contract: only what the config lists is tried; one more member or weighting is another result."""
    on_val = chain.logits["val_ensemble"]
    alone = Ensemble(weightings=(Weighting(name="uniform"),), pools=("probs",))
    handle = optimize_weights(chain.members, on_val, chain.data, alone, store)
    assert len(EnsembleChoice.read(handle).table) == 1 and label(handle) == "chosen (uniform)"
    assert chosen(handle).weights.tolist() == [1 / 3] * 3
    fewer = optimize_weights(chain.members[:2], on_val[:2], chain.data, alone, store)
    assert fewer.fingerprint != handle.fingerprint
    only_convex = Ensemble(weightings=(Weighting(name="convex", shrinkage=0),), pools=("logits",))
    assert label(optimize_weights(chain.members, on_val, chain.data, only_convex, store)) == "convex-logits"
    with pytest.raises(InputError, match="expected at least 90 rows in val_ensemble"):
        candidates(STACKING, 3, 3, 89)


def test_what_takes_long_is_left_out_unless_it_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """contract: by sizes alone; stacking of many classes, and greedy picks on the log pool of many more."""
    found, left_out = candidates(Ensemble(), 5, 100, 6000)
    assert "stacking" not in {c.weighting.name for c in found} and len(found) == 6
    assert left_out == {
        "stacking": "would take about 24 minutes; name it in ensemble.weightings to have it tried",
    }
    found, left_out = candidates(Ensemble(), 12, 1000, 30_000)
    assert [c.name for c in found] == [
        *(f"{name} weights, {pool} pool" for name in ("uniform", "convex") for pool in ("probs", "logits")),
        "greedy weights, probs pool",
    ]
    assert left_out["greedy weights, logits pool"].startswith("would take about 72 minutes")
    assert left_out["stacking"] == "expected at least 120000 rows in val_ensemble, got 30000"
    named = Ensemble(weightings=(Weighting(name="stacking"), Weighting(name="greedy")))
    found, left_out = candidates(named, 5, 100, 6000)
    assert [c.weighting.name for c in found] == ["stacking", "greedy", "greedy"] and not left_out
    usual, left_out = candidates(Ensemble(), 12, 10, 3000)
    assert len(usual) == 7 and not left_out


def test_long_work_that_is_asked_for_is_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """contract: with no time to spare pruning is left out with a word; what is asked for is done, after a warning."""
    monkeypatch.setattr("distillery.stages.ensemble.candidates.MOST_SECONDS", 0)
    logits, labels = votes(4, skill=(2.0, 2.0, 0.0))
    content, _ = chosen_of(logits, labels, Ensemble())
    assert [row.weighting for row in content.table] == ["uniform", "uniform"]
    assert set(content.left_out) == {
        "stacking",
        *(f"{name} weights, {pool} pool" for name in ("convex", "greedy") for pool in ("probs", "logits")),
    }
    assert content.pruning is None
    assert content.pruning_note == "would take about a minute; set ensemble.prune to have it tried"
    assert not caplog.records
    content, _ = chosen_of(logits, labels, QUICK.model_copy(update={"prune": True}))
    assert content.pruning.applied and len(content.table) == 4
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 3 and "convex weights, probs pool are named" in told[0] and "ensemble.prune is set" in told[2]


def test_choosing_goes_by_blocks_of_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """property: less than 20 MB, most of it a bootstrap's, where the probabilities alone would take 29 MB."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2000, 150)
    logits = 2 * generator.normal(size=(12, 150, 2000)).astype(np.float32)
    logits[:, np.arange(150), labels] += 6
    monkeypatch.setattr("distillery.ops.log_probs.KEPT_BYTES", 1 << 20)
    monkeypatch.setattr(
        "distillery.stages.ensemble.candidates.MOST_SECONDS", 0
    )  # no pruning, which would take most of the time
    tracemalloc.start()
    choose(logits, labels, QUICK.model_copy(update={"pools": ("probs",)}), [f"m{i}" for i in range(12)], tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6


def test_logits_beyond_memory_lie_on_disk(chain: Chain, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """reference: the members' logits side by side, in memory or in a file without a name; the choice is the same."""
    handles = chain.logits["val_ensemble"]
    expected, labels = np.stack([read_logits(h) for h in handles]), chain.dataset.labels("val_ensemble")
    held = stage.gathered(handles)
    monkeypatch.setenv("DISTILLERY_MEMORY_MB", "0")
    mapped = stage.gathered(handles, tmp_path)
    assert isinstance(mapped, np.memmap) and not isinstance(held, np.memmap) and not list(tmp_path.iterdir())
    assert np.array_equal(held, expected) and np.array_equal(mapped, expected)
    found = choose(mapped, labels, QUICK, ["a", "b", "c"], tmp_path)
    monkeypatch.delenv("DISTILLERY_MEMORY_MB")
    assert found == choose(held, labels, QUICK, ["a", "b", "c"])


def test_targets_beyond_memory_lie_on_disk(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """reference: the same numbers, in a file without a name; nothing is left in the store."""
    held = teacher_logits(chain.ensemble, chain.taught)
    folder = Path(chain.ensemble.path).parent
    before = sorted(folder.iterdir())
    monkeypatch.setenv("DISTILLERY_MEMORY_MB", "0")
    mapped = teacher_logits(chain.ensemble, chain.taught)
    assert not isinstance(held, np.memmap) and isinstance(mapped, np.memmap) and np.array_equal(held, mapped)
    assert sorted(folder.iterdir()) == before
