"""Views are pure functions of (row, number): what teachers label is what students see."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distillery.config import Augment, Recipe
from distillery.training.fit import Inputs, fit
from distillery.views import view

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 3, 16, 16), dtype=np.uint8)
ROWS = np.arange(100, 112)
AUGMENT = Augment(shift=0.125, flip=True)


@given(st.permutations(range(12)), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_order_and_company_do_not_matter(order: list[int], number: int) -> None:
    """Property: a row's view is the same in any batch and at any place."""
    together = view(IMAGES, ROWS, number, AUGMENT)
    np.testing.assert_array_equal(view(IMAGES[order], ROWS[order], number, AUGMENT), together[order])
    np.testing.assert_array_equal(view(IMAGES[3:4], ROWS[3:4], number, AUGMENT), together[3:4])


def test_a_view_is_a_shift_and_perhaps_a_mirror() -> None:
    """Reference: every view equals one of the 2 · 5 · 5 images that a loop of numpy rolls and flips gives."""
    padded = np.pad(IMAGES, ((0, 0), (0, 0), (2, 2), (2, 2)), mode="edge")
    seen = set()
    for number in range(1, 60):
        found = view(IMAGES, ROWS, number, AUGMENT)
        for row in range(len(IMAGES)):
            candidates = {
                (top, left, mirrored): padded[row, :, top : top + 16, left : left + 16][..., :: -1 if mirrored else 1]
                for top in range(5)
                for left in range(5)
                for mirrored in (False, True)
            }
            matching = [key for key, image in candidates.items() if np.array_equal(image, found[row])]
            assert len(matching) == 1
            seen.add(matching[0])
    assert len(seen) == 50
    np.testing.assert_array_equal(view(IMAGES, ROWS, 0, AUGMENT), IMAGES)


@pytest.mark.parametrize("resident", [True, False])
def test_a_student_sees_each_view_in_turn(resident: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Contract of `fit`: epoch e shows view (e - 1) mod V of each row, and nothing else, resident or streamed."""
    if not resident:
        monkeypatch.setattr("distillery.training.fit.RESIDENT_BYTES", 0)
    source = np.concatenate([np.zeros((100, 3, 16, 16), np.uint8), IMAGES])
    inputs = Inputs(source, ROWS, "cpu", views=3, augment=AUGMENT)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 2))
    shown: list[tuple[int, int, bool]] = []
    handed: list[torch.Tensor] = []
    network.register_forward_pre_hook(lambda _module, args: handed.append(args[0].clone()))

    def objective(logits: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        expected = view(IMAGES, ROWS, inputs.view, AUGMENT)[positions.numpy()]
        shown.extend((inputs.view, int(p), np.array_equal(handed[-1].numpy(), expected)) for p in positions)
        return logits.square().mean()

    fit(network, inputs, objective, Recipe(epochs=4, batch_size=4, augment=AUGMENT), seed=0)
    assert all(same for *_, same in shown)
    assert [v for v, *_ in shown] == [0] * 12 + [1] * 12 + [2] * 12 + [0] * 12
    assert all(sorted(p for _, p, _ in shown[i : i + 12]) == list(range(12)) for i in range(0, 48, 12))
