"""The one temperature of a trained student. N rows, C classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from tiny_chain import Chain
from torch import nn

from distillery.config.search_space import Setting
from distillery.models import InputSpec
from distillery.ops.metrics import row_nll
from distillery.stages.distillation.calibration import SPREAD, Calibrated, temperature_of
from distillery.stages.distillation.held_out import HeldOut
from distillery.stages.students.student_files import StudentRecord, load_student
from distillery.stages.students.student_training import TrainingRequest, train_baselines, train_students
from distillery.store import Store
from distillery.training.single import predict


def told(rows: int, temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits [N, 3] that are `temperature` times those by which the labels [N] were drawn."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 1.5, (rows, 3))
    labels = (generator.random((rows, 1)) > softmax(logits, axis=-1).cumsum(-1)).sum(-1)
    return temperature * logits, labels


@pytest.mark.parametrize("true", [0.5, 1.0, 2.5])
def test_with_many_rows_the_temperature_is_found(true: float) -> None:
    """reference: labels drawn from softmax(z), logits told as T z: the temperature is T."""
    assert temperature_of(*told(20_000, true)) == pytest.approx(true, rel=0.03)


@given(st.integers(0, 999), st.sampled_from([0.4, 1.0, 2.5]))
def test_with_few_rows_the_temperature_stays_near_one(seed: int, true: float) -> None:
    """property: log T is nearer to 0 with eight rows than without the prior, and is within three of its deviations."""
    logits, labels = told(8, true, seed)
    own = minimize_scalar(lambda t: row_nll(logits / np.exp(t), labels).mean(), bounds=(-1.6, 1.6), method="bounded").x
    found = np.log(temperature_of(logits, labels))
    assert abs(found) <= abs(own) + 1e-2 and abs(found) < 3 * SPREAD


def test_rows_that_are_all_right_do_not_make_it_certain() -> None:
    """golden: eight confident right answers ask for none at all; the prior leaves the network nearly as is."""
    sure = 12 * np.eye(3)[[0, 1, 2, 0, 1, 2, 0, 1]]
    assert temperature_of(sure, sure.argmax(1)) == pytest.approx(1, abs=0.02)


@given(st.integers(0, 999), st.integers(2, 200), st.floats(0.3, 3))
def test_the_temperature_is_the_best_guess(seed: int, rows: int, true: float) -> None:
    """reference: no point of a grid has a higher posterior: likelihood of the rows times a normal prior on log T."""
    logits, labels = told(rows, true, seed)

    def lost(log_temperature: float) -> float:
        return float(row_nll(logits / np.exp(log_temperature), labels).sum() + (log_temperature / SPREAD) ** 2 / 2)

    found = np.log(temperature_of(logits, labels))
    assert lost(found) <= min(lost(t) for t in np.linspace(-1.6, 1.6, 65)) + 1e-3


def test_answers_stay_what_they_are(chain: Chain) -> None:
    """property: logits are divided by one number, which is part of what is saved; the top class of no row changes."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    rows = np.array(chain.dataset.inputs[:200])
    before, sure = predict(network, rows), Calibrated(network, 2.5)
    after = predict(sure, rows)
    np.testing.assert_allclose(after, before / 2.5, rtol=1e-6)
    assert np.array_equal(after.argmax(1), before.argmax(1))
    assert sure.state_dict()["temperature"] == 2.5 and len(list(sure.parameters())) == len(list(network.parameters()))


def test_students_and_baselines_are_calibrated(chain: Chain, store: Store) -> None:
    """reference: the temperature in their files is the one that fits their own logits, and is what loading applies."""
    cfg, wanted = chain.config.student, [TrainingRequest(Setting(temperature=6.0, alpha=1.0), 0)]
    upstream = (cfg, chain.data, chain.ensemble, chain.taught, store)
    handles = [
        *train_students(cfg.capacities[0], wanted, *upstream),
        *train_baselines(cfg.capacities[0], wanted, cfg, chain.data, store),
    ]
    spec: InputSpec = chain.dataset.spec
    held_out = HeldOut(chain.dataset)
    inputs, labels = chain.dataset.inputs[held_out.rows], held_out.labels
    temperatures = []
    for handle in handles:
        loaded = load_student(handle, spec)
        assert isinstance(loaded, Calibrated) and not loaded.training
        bare = predict(loaded.network, inputs)
        temperatures.append(StudentRecord.read(handle).calibration_temperature)
        assert temperatures[-1] == pytest.approx(temperature_of(bare, labels), rel=1e-6)
        np.testing.assert_allclose(predict(loaded, inputs), bare / temperatures[-1], rtol=1e-5, atol=1e-6)
        assert row_nll(bare / temperatures[-1], labels).mean() <= row_nll(bare, labels).mean()
        assert handle.metrics["calibration_temperature"] == temperatures[-1]
    assert len(set(temperatures)) == 2
