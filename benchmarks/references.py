"""Plain loops to compare with, as a reader would write them: torch, a DataLoader, one model after another."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import nn
from torch.nn.functional import cross_entropy, kl_div
from torch.utils.data import DataLoader, TensorDataset

BATCH = 64
LR = 1e-3
TEMPERATURE = 3.0
ALPHA = 0.7


def mlp(widths: list[int]) -> nn.Module:
    """Linear layers of the given widths, inputs and outputs included, with a ReLU between them."""
    layers: list[nn.Module] = []
    for narrow, wide in pairwise(widths):
        layers += [nn.Linear(narrow, wide), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def loader(*tensors: torch.Tensor) -> DataLoader:
    """Shuffled batches of rows [N, ...]."""
    return DataLoader(TensorDataset(*tensors), batch_size=BATCH, shuffle=True)


def tutorial_teachers(rows: torch.Tensor, labels: torch.Tensor, epochs: int, count: int = 12) -> list[nn.Module]:
    """Teachers of 46,658 parameters, one after another, each with its own seed."""
    teachers = []
    for seed in range(count):
        torch.manual_seed(seed)
        network = mlp([rows.shape[1], 256, 128, 64, 2])
        optimizer = torch.optim.Adam(network.parameters(), lr=LR)
        for _ in range(epochs):
            for x, y in loader(rows, labels):
                optimizer.zero_grad()
                cross_entropy(network(x), y).backward()
                optimizer.step()
        teachers.append(network.eval())
    return teachers


def softened(teachers: Iterable[nn.Module], rows: torch.Tensor) -> torch.Tensor:
    """Mean of the teachers' probabilities [B, C] at the temperature."""
    with torch.no_grad():
        return torch.stack([(teacher(rows) / TEMPERATURE).softmax(-1) for teacher in teachers]).mean(0)


def distillation_loss(logits: torch.Tensor, taught: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """``alpha · T² · KL + (1 - alpha) · CE``; `taught` are probabilities [B, C] at the temperature."""
    soft = kl_div((logits / TEMPERATURE).log_softmax(-1), taught, reduction="batchmean")
    return ALPHA * TEMPERATURE**2 * soft + (1 - ALPHA) * cross_entropy(logits, labels)


def tutorial_student(rows: torch.Tensor, labels: torch.Tensor, teachers: list[nn.Module], epochs: int) -> nn.Module:
    """A student of 3,490 parameters; every step asks all teachers."""
    torch.manual_seed(0)
    network = mlp([rows.shape[1], 64, 32, 2])
    optimizer = torch.optim.Adam(network.parameters(), lr=LR)
    for _ in range(epochs):
        for x, y in loader(rows, labels):
            taught = softened(teachers, x)
            optimizer.zero_grad()
            distillation_loss(network(x), taught, y).backward()
            optimizer.step()
    return network.eval()


def cached_student(rows: torch.Tensor, labels: torch.Tensor, logits: torch.Tensor, epochs: int) -> nn.Module:
    """The same student, the same steps; the ensemble's logits [N, C] were computed once and come with the rows."""
    torch.manual_seed(0)
    network = mlp([rows.shape[1], 64, 32, 2])
    optimizer = torch.optim.Adam(network.parameters(), lr=LR)
    for _ in range(epochs):
        for x, y, z in loader(rows, labels, logits):
            optimizer.zero_grad()
            distillation_loss(network(x), (z / TEMPERATURE).softmax(-1), y).backward()
            optimizer.step()
    return network.eval()
