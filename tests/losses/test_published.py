"""Losses against their authors' published definitions, rewritten here in the style of the authors' code."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from distillery.losses import LOSSES

SEEDS = st.integers(0, 999)


def published_mse(y_s: Tensor, y_t: Tensor, target: Tensor, T: float, clip: float = 10.0) -> Tensor:
    """jhoon-oh/kd_data, tools/losses.py, mse_logit: nn.MSELoss; here halved, of centred and clipped logits."""
    y_s, y_t = y_s - y_s.mean(1).unsqueeze(1), y_t - y_t.mean(1).unsqueeze(1)
    return torch.nn.MSELoss()(y_s, torch.clamp(y_t, -clip, clip)) / 2


def published_dkd(y_s: Tensor, y_t: Tensor, target: Tensor, T: float, alpha: float = 1.0, beta: float = 2.0) -> Tensor:
    """megvii-research/mdistiller, mdistiller/distillers/DKD.py, dkd_loss: masks, and -1000 on the target's logit."""
    mask = F.one_hot(target, y_s.shape[1]).to(y_s.dtype)
    p_s, p_t = F.softmax(y_s / T, dim=1), F.softmax(y_t / T, dim=1)
    b_s, b_t = (torch.stack([(p * mask).sum(1), (p * (1 - mask)).sum(1)], 1) for p in (p_s, p_t))
    tckd = F.kl_div(torch.log(b_s), b_t, reduction="sum") * T**2 / target.shape[0]
    q_s, q_t = F.log_softmax(y_s / T - 1000.0 * mask, dim=1), F.softmax(y_t / T - 1000.0 * mask, dim=1)
    nckd = F.kl_div(q_s, q_t, reduction="sum") * T**2 / target.shape[0]
    return alpha * tckd + beta * nckd


def published_dist(y_s: Tensor, y_t: Tensor, target: Tensor, T: float, beta: float = 1, gamma: float = 1) -> Tensor:
    """hunto/image_classification_sota, lib/models/losses/dist_kd.py; times kd_loss_weight 2 of its strategies."""

    def relation(a: Tensor, b: Tensor) -> Tensor:
        a, b = a - a.mean(1).unsqueeze(1), b - b.mean(1).unsqueeze(1)
        return 1 - ((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-8)).mean()

    p_s, p_t = (y_s / T).softmax(dim=1), (y_t / T).softmax(dim=1)
    inter, intra = T**2 * relation(p_s, p_t), T**2 * relation(p_s.transpose(0, 1), p_t.transpose(0, 1))
    return 2 * (beta * inter + gamma * intra)


def published_wttm(y_s: Tensor, y_t: Tensor, target: Tensor, T: float) -> Tensor:
    """zkxufo/TTM, distiller_zoo/wttm.py: teacher's probabilities to the power l = 1 / T, and their sum as weight."""
    p_t = torch.pow(torch.softmax(y_t, dim=1), 1 / T)
    norm = torch.sum(p_t, dim=1)
    kl = F.kl_div(F.log_softmax(y_s, dim=1), p_t / norm.unsqueeze(1), reduction="none").sum(1)
    return torch.mean(norm * kl)


def published_lskd(y_s: Tensor, y_t: Tensor, target: Tensor, T: float, kd_weight: float = 9.0) -> Tensor:
    """sunshangquan/logit-standardization-KD, mdistiller/distillers/KD.py; kd-weight as in tools/train.py."""
    z_s, z_t = ((y - y.mean(-1, keepdim=True)) / (1e-7 + torch.std(y, dim=-1, keepdim=True)) for y in (y_s, y_t))
    kl = F.kl_div(F.log_softmax(z_s / T, dim=1), F.softmax(z_t / T, dim=1), reduction="none").sum(1).mean()
    return kd_weight * kl * T**2


def published_wsld(y_s: Tensor, y_t: Tensor, target: Tensor, T: float, alpha: float = 2.5) -> Tensor:
    """bellymonster/Weighted-Soft-Label-Distillation, knowledge_distiller.py: focal weight from one-hot labels."""
    one_hot = F.one_hot(target, y_s.shape[1]).to(y_s.dtype)
    hard_s, hard_t = (-torch.sum(one_hot * F.log_softmax(y.detach(), dim=1), 1, keepdim=True) for y in (y_s, y_t))
    focal_weight = 1 - torch.exp(-torch.clamp(hard_s / (hard_t + 1e-7), min=0))
    soft = -torch.sum(F.softmax(y_t / T, dim=1) * F.log_softmax(y_s / T, dim=1), 1, keepdim=True)
    return alpha * T**2 * torch.mean(focal_weight * soft)


# loss, its options, the published definition, the authors' names and values of the same
CASES: list[tuple[str, dict[str, float], Callable[..., Tensor], dict[str, float]]] = [
    ("mse", {}, published_mse, {}),
    ("mse", {"clip": 1.5}, published_mse, {"clip": 1.5}),
    ("mse", {"clip": math.inf}, published_mse, {"clip": math.inf}),
    ("dkd", {}, published_dkd, {}),
    ("dkd", {"target_weight": 0.3, "beta": 8.0}, published_dkd, {"alpha": 0.3, "beta": 8.0}),
    ("dist", {}, published_dist, {}),
    ("dist", {"beta": 0.5, "gamma": 3.0}, published_dist, {"beta": 0.25, "gamma": 1.5}),
    ("wttm", {}, published_wttm, {}),
    ("lskd", {}, published_lskd, {}),
    ("lskd", {"weight": 0.7}, published_lskd, {"kd_weight": 0.7}),
    ("wsld", {}, published_wsld, {}),
    ("wsld", {"weight": 2.25}, published_wsld, {"alpha": 2.25}),
]


@pytest.mark.parametrize(("name", "options", "published", "same"), CASES)
@given(data=st.data(), seed=SEEDS, temperature=st.floats(0.5, 10))
def test_the_loss_is_the_published_one(
    batch: Any, name: str, options: Any, published: Any, same: Any, data: Any, seed: int, temperature: float
) -> None:
    """reference: value and gradient of the authors' definition, also by default, for any allowed number of classes."""
    classes = data.draw(st.integers(LOSSES.traits(name).get("min_classes", 2), 10))
    student, teacher, labels = batch(seed, classes=classes)
    value = LOSSES[name](student, teacher, labels, temperature, **options)
    expected = published(student, teacher, labels, temperature, **same)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-8)
    gradients = [torch.autograd.grad(v, student)[0] for v in (value, expected)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-7)


def test_every_loss_has_its_reference() -> None:
    """contract: all losses but kd, which has torch's own, stand in the cases above."""
    assert {name for name, *_ in CASES} == set(LOSSES.names()) - {"kd"}


@given(seed=SEEDS)
def test_mse_is_the_limit_of_kd(batch: Any, seed: int) -> None:
    """theorem: T² · KL tends to the halved mean squared difference of the centred logits (Kim et al. 2021)."""
    student, teacher, labels = batch(seed)
    value = LOSSES["mse"](student, teacher, labels, 1.0, clip=math.inf)
    torch.testing.assert_close(LOSSES["kd"](student, teacher, labels, 1e4), value, rtol=2e-3, atol=1e-6)


@given(seed=SEEDS, temperature=st.floats(0.5, 10))
def test_dkd_takes_kd_apart(batch: Any, seed: int, temperature: float) -> None:
    """theorem: kd is dkd with beta = 1 - (teacher's probability of the label), row by row (Zhao et al. 2022, eq. 5)."""
    student, teacher, labels = batch(seed, rows=1)
    beta = 1 - float((teacher / temperature).softmax(-1)[0, labels[0]])
    value = LOSSES["dkd"](student, teacher, labels, temperature, beta=beta)
    torch.testing.assert_close(value, LOSSES["kd"](student, teacher, labels, temperature))
