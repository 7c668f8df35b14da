"""What is minimised: cross-entropy with labels, and beside it a soft loss. K learners, S streams, B rows, C classes."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch.nn.functional import one_hot

from distillery.devices import sent
from distillery.losses import LOSSES, log_probs, probs

Given = tuple[torch.Tensor, ...]


class Objective(ABC):
    """The losses of K learners."""

    @abstractmethod
    def of(self, learners: torch.Tensor) -> Self:
        """The losses of some learners, by place."""

    @abstractmethod
    def gather(self, items: torch.Tensor) -> Given:
        """What the losses of these items [S, n] need, each [S, n, ...]."""

    @abstractmethod
    def losses(self, logits: torch.Tensor, given: Given) -> torch.Tensor:
        """Losses [K] of logits [K, B, C] for what was gathered [1 or K, B, ...]."""

    def gradients(self, logits: torch.Tensor, given: Given, look: bool) -> tuple[torch.Tensor | None, torch.Tensor]:
        """(losses [K], or None unless one may `look`; the gradient of each by its logits [K, B, C])."""
        with torch.enable_grad():
            leaf = logits.detach().requires_grad_()
            losses = self.losses(leaf, given)
            (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        return losses.detach() if look else None, gradient


@dataclass(frozen=True, eq=False)
class Answers:
    """The hard targets of every item.

    Attributes:
        labels: Class ids, int64 [items].
        known: Whether the label holds for the item, bool [items]; None: for all.
        classes: C.
    """

    labels: torch.Tensor
    known: torch.Tensor | None
    classes: int

    def gather(self, items: torch.Tensor, otherwise: torch.Tensor | None = None) -> torch.Tensor:
        """Probabilities [..., C] of items [...]: one for the label; `otherwise` [..., C] where it does not hold."""
        exact = one_hot(self.labels[items], self.classes).float()
        if self.known is None or otherwise is None:
            return exact
        return torch.where(self.known[items][..., None], exact, otherwise)


class Labels(Objective):
    """Cross-entropy with the labels.

    Args:
        answers: The labels.
        smoothing: For each learner.
    """

    def __init__(self, answers: Answers, smoothing: Sequence[float]) -> None:
        self.answers = answers
        self.smoothing = _column(smoothing, answers.labels.device)
        self._smooth = any(smoothing)  # of numbers here: to ask a GPU for one waits for all that it has to do

    def of(self, learners: torch.Tensor) -> Labels:
        """Of some learners."""
        some = copy.copy(self)
        some.smoothing = self.smoothing[learners]
        return some

    def gather(self, items: torch.Tensor) -> Given:
        """(probabilities of the labels [S, n, C],)."""
        return (_batch_last(self.answers.gather(items)),)

    def losses(self, logits: torch.Tensor, given: Given) -> torch.Tensor:
        """Mean cross-entropies [K]."""
        return _cross_entropies(log_probs(logits), self._targets(given))

    def gradients(self, logits: torch.Tensor, given: Given, look: bool) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Written out: ``(softmax - target) / B``."""
        targets = self._targets(given)
        losses = _cross_entropies(log_probs(logits), targets) if look else None
        return losses, (probs(logits) - targets).div_(logits.shape[-2])

    def _targets(self, given: Given) -> torch.Tensor:
        return _smoothed(given[0], self.smoothing) if self._smooth else given[0]


class Taught(Objective):
    """``alpha · soft + (1 - alpha) · CE``.

    The cross-entropy is with the item's label; where it has none, with the ensemble's probabilities.

    Args:
        targets: The ensemble's logits [items, C]; where a GPU has no room for them, each batch's are sent to it.
        answers: The hard targets.
        loss: Name of the soft loss.
        options: Its options, for each learner.
        temperatures: For each learner.
        alphas: For each learner.
        smoothing: Of the labels, for each learner.
    """

    def __init__(
        self,
        targets: torch.Tensor,
        answers: Answers,
        loss: str,
        options: Sequence[dict[str, Any]],
        temperatures: Sequence[float],
        alphas: Sequence[float],
        smoothing: Sequence[float],
    ) -> None:
        self.answers, self.loss, device = answers, loss, answers.labels.device
        self.targets = targets
        self.temperatures, self.alphas, self.smoothing = (
            _column(values, device) for values in (temperatures, alphas, smoothing)
        )
        self.options = {name: _column([own[name] for own in options], device) for name in options[0]}
        self._hard, self._smooth = any(alpha < 1 for alpha in alphas), any(smoothing)
        self._soft, self._gradient = LOSSES[loss], LOSSES.traits(loss).get("gradient")

    def of(self, learners: torch.Tensor) -> Taught:
        """Of some learners."""
        some = copy.copy(self)
        some.options = {name: values[learners] for name, values in self.options.items()}
        some.temperatures = self.temperatures[learners]
        some.alphas = self.alphas[learners]
        some.smoothing = self.smoothing[learners]
        return some

    def gather(self, items: torch.Tensor) -> Given:
        """(the ensemble's logits [S, n, C], labels [S, n], hard targets [S, n, C], whether labels hold [S, n, 1])."""
        taught = _batch_last(sent(self.targets[items.to(self.targets.device)], items.device))
        found = (taught, self.answers.labels[items])
        if not self._hard:
            return found
        some_unknown = self.answers.known is not None
        hard = _batch_last(self.answers.gather(items, taught.softmax(-1) if some_unknown else None))
        if self.answers.known is None or not self._smooth:
            return (*found, hard)
        return (*found, hard, self.answers.known[items][..., None])

    def losses(self, logits: torch.Tensor, given: Given) -> torch.Tensor:
        """Objectives [K]."""
        taught, labels, *_ = given
        alpha = self.alphas[:, 0, 0]
        value = alpha * self._soft(logits, taught, labels, self.temperatures, **self.options)
        if not self._hard:
            return value
        return value + (1 - alpha) * _cross_entropies(log_probs(logits), self._hard_targets(given))

    def gradients(self, logits: torch.Tensor, given: Given, look: bool) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Written out where the soft loss has its gradient written out."""
        if self._gradient is None:
            return super().gradients(logits, given, look)
        taught, labels, *_ = given
        gradient = self._gradient(logits, taught, labels, self.temperatures, **self.options).mul_(self.alphas)
        if self._hard:
            share = (1 - self.alphas) / logits.shape[-2]
            gradient.addcmul_(probs(logits).sub_(self._hard_targets(given)), share)
        return self.losses(logits, given) if look else None, gradient

    def _hard_targets(self, given: Given) -> torch.Tensor:
        hard, *holds = given[2:]
        if not self._smooth:
            return hard
        return _smoothed(hard, self.smoothing * holds[0] if holds else self.smoothing)


def _column(values: Sequence[float], device: str | torch.device) -> torch.Tensor:
    """Values of K learners [K, 1, 1]."""
    return torch.tensor(values, dtype=torch.float32, device=device).view(-1, 1, 1)


def _batch_last(values: torch.Tensor) -> torch.Tensor:
    """The same values [S, n, C], with n innermost in memory, as logits of a stack are."""
    return values.mT.contiguous().mT


def _smoothed(targets: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    return targets * (1 - share) + share / targets.shape[-1]


def _cross_entropies(logs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy [K] of log-probabilities [K, B, C] with probabilities [1 or K, B, C]."""
    return -(targets * logs).sum(-1).mean(-1)
