"""Every knob of an experiment. What changes a result is here and is hashed; where it runs is not."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from distillery.data import SOURCES
from distillery.losses import LOSSES
from distillery.models import MODELS
from distillery.registry import closest
from distillery.sections import Choice, Section
from distillery.weightings import WEIGHTINGS

Size = Annotated[float, Field(gt=0)]


class Split(Section):
    """Shares (below 1) or numbers of rows; train takes what is left."""

    order: Literal["stratified", "ordered"] = "stratified"
    train: Size | None = None
    val_ensemble: Size = 0.1
    val_search: Size = 0.1
    test: Size = 0.2
    seed: int = 0


class Data(Choice):
    """The rows. `image_size` is the side in pixels to which images are resized."""

    registry = SOURCES
    selector = "source"
    source: str
    image_size: int = Field(32, ge=4, le=1024)
    image_fit: Literal["crop", "squash"] = "crop"
    split: Split = Split()


class Augment(Section):
    """Label-preserving changes of training rows, drawn anew for each batch: of images, or noise on tables."""

    shift: float = Field(0.0, ge=0, le=0.5, description="largest random shift, as a share of the side")
    flip: bool = Field(False, description="mirror half of the images left to right")
    noise: float = Field(0.0, ge=0, description="standard deviation of Gaussian noise on encoded table columns")


class Recipe(Section):
    """How a network is trained: AdamW, linear warm-up, then a cosine to zero; the last step's weights are kept."""

    epochs: int = Field(30, ge=1)
    batch_size: int = Field(64, ge=1)
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    warmup_epochs: float = Field(1.0, ge=0)
    clip_norm: float | None = Field(None, gt=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    augment: Augment = Augment()


class Model(Choice):
    """A network, an estimator or given logits, by family."""

    registry = MODELS
    selector = "family"
    family: str
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")


class Teacher(Model):
    """A model of the ensemble; `copies` of it differ in their seed. `recipe` overrides keys of the teachers' recipe."""

    copies: int = Field(1, ge=1)
    recipe: dict[str, Any] = Field(default_factory=dict)


class Capacity(Model):
    """One rung of the ladder of students."""

    @model_validator(mode="after")
    def _is_network(self) -> Capacity:
        if not MODELS.traits(self.family)["network"]:
            allowed = [n for n in MODELS.names() if MODELS.traits(n)["network"]]
            raise ValueError(f"a student must be a network: {closest(self.family, allowed)}")
        return self


class Teachers(Section):
    """The models whose knowledge is distilled."""

    members: tuple[Teacher, ...] = Field(min_length=1)
    recipe: Recipe = Recipe()

    def each(self) -> list[tuple[str, Teacher, int]]:
        """(name, config, number of the copy) of every single teacher."""
        return [
            (m.name if m.copies == 1 else f"{m.name}-{copy:02d}", m, copy)
            for m in self.members
            for copy in range(m.copies)
        ]

    def recipe_of(self, member: Teacher) -> Recipe:
        """The teachers' recipe with the member's own values on top."""
        return Recipe(**{**self.recipe.model_dump(), **member.recipe})

    @model_validator(mode="after")
    def _names_differ(self) -> Teachers:
        _distinct([name for name, _, _ in self.each()])
        for member in self.members:
            self.recipe_of(member)
        return self


class Weighting(Choice):
    """How ensemble weights are found."""

    registry = WEIGHTINGS
    selector = "name"
    name: str


class Ensemble(Section):
    """Candidates for the ensemble; the choice among them is made on val_ensemble, cross-fitted."""

    weightings: tuple[Weighting, ...] = Field(
        (Weighting(name="uniform"), Weighting(name="convex"), Weighting(name="greedy")), min_length=1
    )
    pools: tuple[Literal["probs", "logits"], ...] = Field(("probs", "logits"), min_length=1)
    folds: int = Field(5, ge=2)


class Loss(Choice):
    """The soft loss. ``alpha`` is the weight of the soft term: ``alpha * soft + (1 - alpha) * CE``."""

    registry = LOSSES
    selector = "name"
    name: str = "kd"


class Range(Section):
    """An interval to search."""

    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"expected low < high, got {self.low} and {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"expected low > 0 on a log scale, got {self.low}")
        return self


Space = Range | float
KNOBS = ("temperature", "alpha", "lr", "weight_decay")


class Search(Section):
    """One Optuna study. A number instead of a range fixes a knob. Every capacity gets its share of the trials."""

    trials: int = Field(24, ge=1)
    temperature: Space = Range(low=1, high=8, log=True)
    alpha: Space = Range(low=0.3, high=1)
    lr: Space | None = None
    weight_decay: Space | None = None
    epochs: int | None = Field(None, ge=1, description="epochs of a trial; None trains it as long as the final student")
    objectives: tuple[Literal["nll", "error", "latency_ms", "params", "macs"], ...] = ("nll", "latency_ms", "params")
    choose: Literal["best", "smallest_within_one_se"] = "best"
    max_latency_ms: float | None = Field(None, gt=0)
    max_params: int | None = Field(None, gt=0)
    known_good: tuple[dict[str, float], ...] = (
        {"temperature": 4.0, "alpha": 0.7},
        {"temperature": 1.0, "alpha": 1.0},
    )

    @model_validator(mode="after")
    def _in_bounds(self) -> Search:
        for name, bounds, allowed in (
            ("temperature", "> 0", lambda v: 0 < v < math.inf),
            ("alpha", "in [0, 1]", lambda v: 0 <= v <= 1),
            ("lr", "> 0", lambda v: 0 < v < math.inf),
            ("weight_decay", ">= 0", lambda v: 0 <= v < math.inf),
        ):
            space = getattr(self, name)
            for value in [space.low, space.high] if isinstance(space, Range) else [space]:
                if value is not None and not allowed(value):
                    raise ValueError(f"{name}: expected a value {bounds}, got {value}")
        for point in self.known_good:
            for knob in point:
                if knob not in KNOBS:
                    raise ValueError(f"known_good: {closest(knob, KNOBS)}")
        if len(self.objectives) < 2 or self.objectives[0] not in ("nll", "error"):
            raise ValueError(f"objectives: expected nll or error first and at least one cost, got {self.objectives}")
        return self


class Student(Section):
    """The ladder of capacities, its recipe and its loss."""

    capacities: tuple[Capacity, ...] = Field(min_length=1)
    recipe: Recipe = Recipe()
    loss: Loss = Loss()
    views: int = Field(
        1, ge=1, description="images only: augmented versions of each training row that the teachers label, too"
    )

    @model_validator(mode="after")
    def _names_differ(self) -> Student:
        _distinct([c.name for c in self.capacities])
        return self


class Logits(Section):
    """How raw logits are kept."""

    dtype: Literal["float16", "float32"] = "float16"
    chunk_rows: int = Field(4096, ge=1)


class Evaluation(Section):
    """How the reported figures are made."""

    resamples: int = Field(2000, ge=100)
    confidence: float = Field(0.95, gt=0, lt=1)
    latency_runs: int = Field(300, ge=10)
    batch_size: int = Field(256, ge=1)


class Experiment(Section):
    """A whole experiment, in the order of the chain."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    seed: int = 0
    data: Data
    teachers: Teachers
    logits: Logits = Logits()
    ensemble: Ensemble = Ensemble()
    student: Student
    search: Search = Search()
    evaluation: Evaluation = Evaluation()

    @model_validator(mode="after")
    def _kinds_fit(self) -> Experiment:
        kind = SOURCES.traits(self.data.source)["kind"]
        recipes = [
            ("student", self.student.recipe),
            *(("teachers", self.teachers.recipe_of(m)) for m in self.teachers.members),
        ]
        for owner, recipe in recipes:
            for name in ("shift", "flip") if kind == "table" else ("noise",):
                if getattr(recipe.augment, name):
                    raise ValueError(f"{owner}.recipe.augment.{name}: not for {kind} data")
        if self.search.trials < len(self.student.capacities):
            count = len(self.student.capacities)
            raise ValueError(f"search.trials: expected one for each of {count} capacities, got {self.search.trials}")
        if self.student.views > 1:
            self._check_views(kind)
        for path, models in (
            ("teachers.members", self.teachers.members),
            ("student.capacities", self.student.capacities),
        ):
            for index, model in enumerate(models):
                if kind not in MODELS.traits(model.family)["kinds"]:
                    fitting = [n for n in MODELS.names() if kind in MODELS.traits(n)["kinds"]]
                    raise ValueError(f"{path}.{index}.family: for {kind} data {closest(model.family, fitting)}")
        return self

    def _check_views(self, kind: str) -> None:
        augment = self.student.recipe.augment
        if kind != "image":
            raise ValueError(f"student.views: for images only, got {self.student.views} for {kind} data")
        if not (augment.shift or augment.flip):
            raise ValueError("student.views: expected a shift or flip in student.recipe.augment, got none")
        given = [m.name for m in self.teachers.members if m.family == "given"]
        if given:
            raise ValueError(f"student.views: teacher {given[0]!r} has given logits, which cannot label new views")


def _distinct(names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"expected distinct names, got {name!r} {names.count(name)} times")
