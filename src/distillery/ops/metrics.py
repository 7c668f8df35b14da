"""How good probabilities are, and how sure we may be of it. N rows, C classes, B bins."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import stats
from scipy.special import log_softmax

BLOCK_BYTES = 1 << 20  # of float64 numbers that are worked on at once: they stay in the processor's cache
BLOCKS = 50_000  # that a bootstrap draws at most
KEPT = 128 << 20  # draws of a bootstrap that are kept in memory for the next figure on the same rows, in bytes


def row_blocks(rows: int, numbers: int, block_bytes: int = BLOCK_BYTES) -> Iterator[slice]:
    """The slices that cut rows of so many float64 numbers each into blocks of some bytes, a row at the least."""
    size = max(1, block_bytes // (8 * max(1, numbers)))
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def row_nll(logits_NC: np.ndarray, labels_N: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Negative log-likelihood of each row [N], in nats, of logits that are divided by a temperature."""
    nll_N = np.empty(len(labels_N))
    for rows in row_blocks(*logits_NC.shape):
        logits_BC = np.asarray(logits_NC[rows], np.float64) / temperature
        logits_BC -= logits_BC.max(-1, keepdims=True)
        at_label_B = logits_BC[np.arange(len(logits_BC)), labels_N[rows]]
        np.exp(logits_BC, out=logits_BC)
        nll_N[rows] = np.log(logits_BC.sum(-1)) - at_label_B
    return nll_N


def row_correct(logits_NC: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """1.0 where the top class is the label, else 0.0 [N]."""
    return (logits_NC.argmax(-1) == labels_N).astype(np.float64)


@dataclass(frozen=True)
class RowScores:
    """What the figures of a model are means of, for each row [N].

    Attributes:
        nll: See `row_nll`.
        correct: See `row_correct`.
        squared: Squared distance between probabilities and the one-hot label.
        confidence: Probability of the top class.
    """

    nll: np.ndarray
    correct: np.ndarray
    squared: np.ndarray
    confidence: np.ndarray

    @classmethod
    def empty(cls, rows: int) -> RowScores:
        """Scores that are still to be put in."""
        return cls(*np.empty((4, rows)))

    def put(self, places: np.ndarray | slice, logits_BC: np.ndarray, labels_B: np.ndarray) -> None:
        """Fills in the rows at some places."""
        log_probs = log_softmax(np.asarray(logits_BC, np.float64), axis=-1)
        each = np.arange(len(labels_B))
        self.nll[places] = -log_probs[each, labels_B]
        self.correct[places] = row_correct(logits_BC, labels_B)
        probs = np.exp(log_probs, out=log_probs)
        self.confidence[places] = probs.max(-1)
        probs[each, labels_B] -= 1
        self.squared[places] = (probs**2).sum(-1)

    def quality(self) -> dict[str, float]:
        """accuracy, nll, brier and ece."""
        return {
            "accuracy": float(self.correct.mean()),
            "nll": float(self.nll.mean()),
            "brier": float(self.squared.mean()),
            "ece": self.ece(),
        }

    def ece(self, bins: int = 15) -> float:
        """See `ece`."""
        confidence_B, correct_B, share_B = self.reliability(bins)
        return float((share_B * np.abs(confidence_B - correct_B)).sum())

    def reliability(self, bins: int = 15) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See `reliability`."""
        rows = len(self.confidence)
        parts = np.array_split(np.argsort(self.confidence, kind="stable"), min(bins, rows))
        means = [(self.confidence[p].mean(), self.correct[p].mean(), len(p) / rows) for p in parts]
        return tuple(np.array(column) for column in zip(*means, strict=True))  # type: ignore[return-value]


def row_scores(logits_NC: np.ndarray, labels_N: np.ndarray) -> RowScores:
    """The scores of one model, row by row."""
    scores = RowScores.empty(len(labels_N))
    for rows in row_blocks(*logits_NC.shape):
        scores.put(rows, logits_NC[rows], labels_N[rows])
    return scores


def brier(logits_NC: np.ndarray, labels_N: np.ndarray) -> float:
    """Mean squared distance between probabilities and one-hot labels, summed over classes (Brier 1950): 0 to 2."""
    return float(row_scores(logits_NC, labels_N).squared.mean())


def ece(logits_NC: np.ndarray, labels_N: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error of the top class, over bins of equal mass (Nguyen and O'Connor 2015): 0 to 1."""
    return row_scores(logits_NC, labels_N).ece(bins)


def reliability(
    logits_NC: np.ndarray, labels_N: np.ndarray, bins: int = 15
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean confidence [B], accuracy [B] and share of rows [B] of bins of equal mass, by rising confidence."""
    return row_scores(logits_NC, labels_N).reliability(bins)


def quality(logits_NC: np.ndarray, labels_N: np.ndarray) -> dict[str, float]:
    """accuracy, nll, brier and ece of one model."""
    return row_scores(logits_NC, labels_N).quality()


def agreement(logits_NC: np.ndarray, reference_NC: np.ndarray) -> float:
    """Share of rows on which both have the same top class."""
    return float((logits_NC.argmax(-1) == reference_NC.argmax(-1)).mean())


def recall_by_class(logits_NC: np.ndarray, labels_N: np.ndarray) -> list[float | None]:
    """Share of each class's rows that are recognised; None for a class without rows."""
    top = logits_NC.argmax(-1)
    classes = range(logits_NC.shape[1])
    return [float((top[labels_N == c] == c).mean()) if (labels_N == c).any() else None for c in classes]


def confusion(logits_NC: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """Counts [C, C]: true class by predicted class."""
    counts = np.zeros((logits_NC.shape[1],) * 2, np.int64)
    np.add.at(counts, (labels_N, logits_NC.argmax(-1)), 1)
    return counts


@dataclass(frozen=True)
class Interval:
    """A figure with its confidence interval; all None where it is not defined."""

    value: float | None
    low: float | None
    high: float | None
    note: str = ""


def paired_difference(
    a_N: np.ndarray,
    b_N: np.ndarray,
    *,
    resamples: int,
    confidence: float,
    seed: int = 0,
    largest: float | None = None,
) -> Interval:
    """Mean of a - b with a percentile interval from a bootstrap over rows (Efron 1979).

    Args:
        a_N: A figure of each row.
        b_N: The same figure of another model.
        resamples: Of the bootstrap.
        confidence: Of the interval.
        seed: Of the bootstrap.
        largest: Size of the largest difference that a row can have, where there is one. The bootstrap then draws from
            two more rows, which differ by so much, one each way (the adjustment of Bonett and Price 2012): few rows
            that all agree do not show that all others would.
    """
    difference = a_N - b_N
    value = float(difference.mean())
    if largest is not None:
        difference = np.append(difference, [largest, -largest])
    if np.all(difference == difference[0]):
        return Interval(value, value, value)
    means = resampled_means(difference[:, None], resamples, seed)[:, 0]
    return Interval(value, *_ends(means, confidence))


def paired_share_difference(a_N: np.ndarray, b_N: np.ndarray, *, confidence: float) -> Interval:
    """Share of rows where a is 1 minus the share where b is, with the score interval of paired shares (Tango 1998).

    It has a width also where a and b are equal on all rows, as [0, 3.8 / (N + 3.8)] for N rows at 95 %.
    """
    won, lost = float((a_N > b_N).sum()), float((a_N < b_N).sum())
    z = float(stats.norm.ppf((1 + confidence) / 2))
    low, high = share_difference_ends(won, lost, len(a_N), z)
    return Interval((won - lost) / len(a_N), float(low), float(high))


def share_difference_ends(
    won: np.ndarray | float, lost: np.ndarray | float, rows: np.ndarray | float, z: float
) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the score interval of ``(won - lost) / rows`` (Tango 1998).

    Args:
        won: Number of rows that the one alone has right [...].
        lost: Number of rows that the other alone has right [...].
        rows: Number of all rows [...].
        z: Quantile of the normal law at the level of one end.
    """
    won, lost, rows = (np.asarray(count, np.float64) for count in (won, lost, rows))
    return -_upper_end(lost, won, rows, z), _upper_end(won, lost, rows, z)


def _upper_end(won: np.ndarray, lost: np.ndarray, rows: np.ndarray, z: float) -> np.ndarray:
    """The largest difference [...] from which what was seen is at most z standard errors away, by bisection."""
    low, high = (won - lost) / rows, np.ones(np.broadcast(won, lost, rows).shape)
    for _ in range(40):
        middle = (low + high) / 2
        # The variance if `middle` is true: the share of rows lost is then most likely `share`.
        linear = (2 * rows - won + lost) * middle - won - lost
        root = np.sqrt(np.maximum(linear**2 + 8 * rows * lost * middle * (1 - middle), 0))
        share = (root - linear) / (4 * rows)
        variance = rows * (2 * share + middle * (1 - middle))
        too_far = (won - lost - rows * middle) ** 2 > z**2 * variance
        low, high = np.where(too_far, low, middle), np.where(too_far, middle, high)
    return np.asarray((low + high) / 2)


def gap_recovery(
    student_N: np.ndarray,
    baseline_N: np.ndarray,
    ensemble_N: np.ndarray,
    *,
    resamples: int,
    confidence: float,
    seed: int = 0,
) -> Interval:
    """(student - baseline) / (ensemble - baseline) of per-row figures, with a paired bootstrap interval over rows.

    More is better in all figures. Where the ensemble is not ahead of the baseline beyond chance, the ratio means
    nothing: value None, and a note.
    """
    gap = paired_difference(ensemble_N, baseline_N, resamples=resamples, confidence=confidence, seed=seed)
    assert gap.low is not None and gap.high is not None
    if gap.low <= 0:
        reason = "gap not significant" if gap.high >= 0 else "no gap, the ensemble is behind the baseline"
        return Interval(None, None, None, f"{reason}: [{gap.low:.4g}, {gap.high:.4g}]")
    figures = np.stack([student_N, baseline_N, ensemble_N], axis=1)
    means = np.vstack([figures.mean(0), resampled_means(figures, resamples, seed)])
    apart = means[:, 2] - means[:, 1]
    # A resample may hold no gap at all; without a number there, the whole interval would be none.
    ratios = (means[:, 0] - means[:, 1]) / np.where(apart == 0, 1e-12, apart)
    return Interval(float(ratios[0]), *_ends(ratios[1:], confidence))


def resampled_means(figures_NF: np.ndarray, resamples: int, seed: int = 0) -> np.ndarray:
    """Means of F figures over rows drawn with replacement, [resamples, F]; the same rows for the same N and seed.

    More than `BLOCKS` rows are dealt out at random to so many blocks, and blocks are drawn: rows are independent, so
    sums of blocks vary as rows do, and the cost does not grow with N.
    """
    centre, sizes = figures_NF.mean(0), np.ones(len(figures_NF))
    centred = figures_NF - centre
    if len(figures_NF) > BLOCKS:
        starts = np.linspace(0, len(figures_NF), BLOCKS, endpoint=False).astype(np.int64)
        shuffled = np.random.default_rng(seed).permutation(len(figures_NF))
        centred, sizes = np.add.reduceat(centred[shuffled], starts), np.diff(starts, append=len(figures_NF))
    drawn = np.column_stack([centred, sizes])
    sums = np.concatenate([counts.astype(np.float64) @ drawn for counts in _draws(len(drawn), resamples, seed)])
    return np.asarray(centre + sums[:, :-1] / sums[:, -1:])


def _draws(rows: int, resamples: int, seed: int) -> Iterable[np.ndarray]:
    """How often each row is in each resample, uint8 [some, rows], kept in memory where that is not much."""
    return _kept_draws(rows, resamples, seed) if rows * resamples <= KEPT else _new_draws(rows, resamples, seed)


def _new_draws(rows: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    generator, some = np.random.default_rng(seed), max(1, 4_000_000 // rows)
    for first in range(0, resamples, some):
        wide = min(some, resamples - first)
        drawn = generator.integers(0, rows, (wide, rows)) + rows * np.arange(wide)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=wide * rows)
        yield np.minimum(counts, 255).astype(np.uint8).reshape(wide, rows)


@lru_cache(maxsize=2)
def _kept_draws(rows: int, resamples: int, seed: int) -> tuple[np.ndarray, ...]:
    return tuple(_new_draws(rows, resamples, seed))


def _ends(values: np.ndarray, confidence: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
