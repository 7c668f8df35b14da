"""What a study searches, and how: the `search` section of a config."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal, SupportsFloat, SupportsIndex

from pydantic import BeforeValidator, Field, model_validator

from distillery.config.section import Choice, Section
from distillery.losses import LOSSES
from distillery.registry import closest


class Range(Section):
    """An interval to search."""

    low: float = Field(description="lower end")
    high: float = Field(description="upper end")
    log: bool = Field(False, description="search on a logarithmic scale")

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"expected low < high, got {self.low} and {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"expected low > 0 on a log scale, got {self.low}")
        return self


def _number_or_range(given: object) -> object:
    if isinstance(given, Range | dict):
        return given
    try:
        if isinstance(given, str | SupportsFloat | SupportsIndex):
            return float(given)
    except (TypeError, ValueError):
        pass
    raise ValueError(f"expected a number or a range {{low: ..., high: ...}}, got {given!r}")


Space = Annotated[Range | float, BeforeValidator(_number_or_range)]


class Loss(Choice):
    """The soft loss. ``alpha`` is the weight of the soft term: ``alpha * soft + (1 - alpha) * CE``."""

    registry = LOSSES
    selector = "name"
    name: str = Field("kd", description="name of a registered loss, or file.py:function")


class LossSpace(Section):
    """A soft loss to search, and ranges of its options."""

    name: str = Field(description="name of a loss")
    options: dict[str, Space] = Field(default_factory=dict, description="a number or a range per option")

    @model_validator(mode="after")
    def _resolve(self) -> LossSpace:
        for end in ("low", "high"):
            values = {k: getattr(v, end) if isinstance(v, Range) else v for k, v in self.options.items()}
            LOSSES.check(self.name, values)
        return self


KNOBS: dict[str, tuple[str, Callable[[float], bool]]] = {
    "temperature": ("> 0", lambda v: 0 < v < math.inf),
    "alpha": ("in [0, 1]", lambda v: 0 <= v <= 1),
    "lr": ("> 0", lambda v: 0 < v < math.inf),
    "weight_decay": (">= 0", lambda v: 0 <= v < math.inf),
    "noise": (">= 0", lambda v: 0 <= v < math.inf),
    "unlabeled_fraction": ("in [0, 1]", lambda v: 0 <= v <= 1),
    "label_smoothing": ("in [0, 1)", lambda v: 0 <= v < 1),
}
"""Every number that a trial may vary, and what it may be."""


class Knobs(Section):
    """Ranges of the knobs of training. None keeps the recipe's value, a number fixes it."""

    renamed: ClassVar[dict[str, str]] = {"known_good": "initial_points"}

    lr: Space | None = Field(None, description="learning rate")
    weight_decay: Space | None = Field(None, description="weight decay")
    noise: Space | None = Field(None, description="tables only: see recipe.augment.noise")
    label_smoothing: Space | None = Field(None, description="label smoothing")
    initial_points: tuple[dict[str, Any], ...] = Field((), description="settings to try first, at every capacity")

    @model_validator(mode="after")
    def _in_bounds(self) -> Knobs:
        for name, (bounds, allowed) in KNOBS.items():
            space = getattr(self, name, None)
            for value in [space.low, space.high] if isinstance(space, Range) else [space]:
                if value is not None and not allowed(value):
                    raise ValueError(f"{name}: expected a value {bounds}, got {value}")
        fields = type(self).model_fields
        own = [name for name in KNOBS if name in fields] + ["loss"] * ("losses" in fields)
        for index, point in enumerate(self.initial_points):
            for knob, value in point.items():
                self._check_point(index, knob, value, own)
        return self

    def _check_point(self, index: int, knob: str, value: object, own: list[str]) -> None:
        if knob not in own:
            raise ValueError(f"initial_points.{index}: {closest(knob, own)}")
        if knob == "loss":
            return
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"initial_points.{index}.{knob}: expected a number, got {value!r}")
        space = getattr(self, knob)
        # the default points need not fit the user's ranges, also where a dump has written them out
        written = self.initial_points != type(self).model_fields["initial_points"].default
        if written and isinstance(space, Range) and not space.low <= value <= space.high:
            raise ValueError(
                f"initial_points.{index}.{knob}: expected a value in [{space.low}, {space.high}], the searched range, "
                f"got {value}"
            )

    def ranges(self) -> dict[str, Space]:
        """The knobs that are searched or fixed here, by name."""
        spaces = {name: getattr(self, name) for name in KNOBS if name in type(self).model_fields}
        return {name: space for name, space in spaces.items() if space is not None}

    def setting(self, proposal: Mapping[str, object]) -> Setting:
        """The setting that proposed values for the searched knobs make with the fixed ones."""
        values: dict[str, object] = {k: proposal[k] if isinstance(s, Range) else s for k, s in self.ranges().items()}
        losses = {loss.name: loss for loss in getattr(self, "losses", ())}
        if losses:
            name = proposal.get("loss", next(iter(losses)))
            options = {k: proposal.get(f"{name}.{k}", s) for k, s in losses[name].options.items()}
            values["loss"] = Loss(name=name, **options)
        return Setting(**values)


class Halving(Section):
    """Successive halving: a trial stops at a rung unless it is in the best 1/`eta` of those that came there before.

    Rungs lie at 1/eta, 1/eta², ... of a trial's epochs. Trials of one round come to a rung together and are compared
    with each other as well. Nobody stops before `grace` trials of its capacity were there.
    Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning" (arXiv 1810.05934).
    """

    eta: float = Field(2.0, gt=1, description="one trial in eta goes on at each rung")
    rungs: int = Field(2, ge=1, le=6, description="number of comparisons, at 1/eta, 1/eta², ... of the epochs")
    grace: int = Field(4, ge=1, description="trials of a capacity that pass a rung before any is stopped there")

    def epochs(self, total: int) -> list[int]:
        """The epochs after which trials are compared, ascending."""
        epochs = {max(1, round(total / self.eta**k)) for k in range(1, self.rungs + 1)}
        return sorted(epoch for epoch in epochs if epoch < total)


class Search(Knobs):
    """One Optuna study. A number instead of a range fixes a knob. Every capacity gets its share of the trials."""

    renamed: ClassVar[dict[str, str]] = {
        **Knobs.renamed,
        "share": "unlabeled_fraction",
        "cohort": "trials_per_round",
        "choose": "select",
    }

    trials: int = Field(24, ge=1, description="trials of the study, dealt out evenly among capacities")
    temperature: Space = Field(Range(low=1, high=8, log=True), description="T of the soft loss")
    alpha: Space = Field(Range(low=0.3, high=1), description="weight of the soft term: alpha * soft + (1 - alpha) * CE")
    unlabeled_fraction: Space | None = Field(
        None, description="fraction of each epoch drawn from unlabelled or synthetic items; see student.views"
    )
    losses: tuple[LossSpace, ...] = Field((), description="soft losses to choose from; none: student.loss")
    epochs: int | None = Field(None, ge=1, description="epochs of a trial; none: as many as the final student's")
    trials_per_round: int = Field(
        8, ge=1, description="trials of a capacity that are proposed at once and train together; 1 where they cannot"
    )
    halving: Halving | None = Field(None, description="early stopping of weak trials; none: all run to their end")
    finalists: int = Field(2, ge=1, description="settings of the chosen capacity that are trained at full length")
    seeds: int = Field(2, ge=1, description="seeds of each finalist; the mean decides")
    objectives: tuple[Literal["nll", "error", "latency_ms", "params", "macs"], ...] = Field(
        ("nll", "latency_ms", "params"),
        description="objectives of the Optuna study: nll or error first, then costs",
    )
    select: str = Field("best", description="what is shipped: best, smallest_within_one_se, or a capacity by name")
    max_latency_ms: float | None = Field(None, gt=0, description="slower capacities are left out")
    max_params: int | None = Field(None, gt=0, description="larger capacities are left out")
    baseline: Knobs | None = Field(
        None,
        description="knobs of the tuned baseline, which learns from labels alone and gets the same number of trials; "
        "none: learning rate and weight decay around the recipe's",
    )
    initial_points: tuple[dict[str, Any], ...] = Field(
        ({"temperature": 4.0, "alpha": 0.7}, {"temperature": 1.0, "alpha": 1.0}),
        description="settings to try first, at every capacity",
    )

    @property
    def temperatures(self) -> tuple[float, ...]:
        """The ends and the geometric middle of the temperatures that are searched."""
        given = self.temperature
        return (given.low, math.sqrt(given.low * given.high), given.high) if isinstance(given, Range) else (given,)

    @model_validator(mode="after")
    def _consistent(self) -> Search:
        if len(self.objectives) < 2 or self.objectives[0] not in ("nll", "error"):
            raise ValueError(f"objectives: expected nll or error first and at least one cost, got {self.objectives}")
        if self.alpha == 0:
            raise ValueError("alpha: expected a value above 0, got 0, which would leave the teachers out")
        names = [loss.name for loss in self.losses]
        if len(set(names)) < len(names):
            raise ValueError(f"losses: expected distinct losses, got {', '.join(names)}")
        for index, point in enumerate(self.initial_points):
            if "loss" in point and not names:
                raise ValueError(f"initial_points.{index}.loss: expected search.losses to choose from, got none")
            if "loss" in point and point["loss"] not in names:
                raise ValueError(f"initial_points.{index}.loss: {closest(str(point['loss']), names)}")
        return self


class Setting(Section):
    """What a trial or a student is trained with. None keeps the recipe's own value, or the config's own loss."""

    temperature: float = Field(1.0, gt=0)
    alpha: float = Field(0.0, ge=0, le=1)
    lr: float | None = None
    weight_decay: float | None = None
    noise: float | None = None
    label_smoothing: float | None = None
    unlabeled_fraction: float | None = None
    epochs: int | None = None
    loss: Loss | None = None

    def chosen_loss(self, default: Loss) -> Loss:
        """The setting's own loss, or `default`."""
        return default if self.loss is None else self.loss
