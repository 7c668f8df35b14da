"""Random batches of logits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@pytest.fixture(scope="session")
def batch() -> Callable[..., Batch]:
    """A function that makes student's logits (with gradient), teacher's logits and labels, in double precision."""

    def make(seed: int, rows: int = 6, classes: int = 5) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        student, teacher = 3 * torch.randn(2, rows, classes, generator=generator, dtype=torch.float64)
        return student.requires_grad_(), teacher, torch.randint(0, classes, (rows,), generator=generator)

    return make
