"""Every knob of an experiment. What changes a result is here and is hashed; where it runs is not."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from distillery.config.data import Data
from distillery.config.gates import SHIP_GATES, Gates
from distillery.config.search_space import Loss, Range, Search
from distillery.config.section import Choice, Section
from distillery.models import MODELS
from distillery.registry import closest
from distillery.sources import SOURCES
from distillery.views import VIEWS
from distillery.weightings import WEIGHTINGS


class Augment(Section):
    """Label-preserving changes of training rows, drawn anew for each batch: of images, or noise on tables."""

    renamed: ClassVar[dict[str, str]] = {"light": "brightness"}

    shift: float = Field(0.0, ge=0, le=0.5, description="largest random shift, as a share of the side")
    flip: bool = Field(False, description="mirror half of the images left to right")
    brightness: float = Field(0.0, ge=0, lt=1, description="largest change of brightness, as a share of it")
    noise: float = Field(0.0, ge=0, description="standard deviation of Gaussian noise on encoded table columns")


SMALLEST_BATCH = 16  # that `min_steps` leads to


class Recipe(Section):
    """How a network is trained: AdamW, linear warm-up, then a cosine to zero; the last step's weights are kept."""

    epochs: int = Field(30, ge=1, description="passes over the training rows")
    batch_size: int = Field(64, ge=1, description="rows of one training step")
    min_steps: int = Field(
        1, ge=1, description="steps of an epoch, at least: with few rows, batches are smaller, down to 16 rows"
    )
    lr: float = Field(1e-3, gt=0, description="largest learning rate, reached after the warm-up")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's decoupled weight decay")
    warmup_epochs: float = Field(1.0, ge=0, description="epochs in which the learning rate rises from zero")
    clip_norm: float | None = Field(None, gt=0, description="largest norm of a gradient; none: not clipped")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of each label given to all classes")
    augment: Augment = Field(Augment(), description="random changes of training rows")

    def batch_of(self, rows: int) -> int:
        """Rows of one step, where an epoch has so many."""
        least = min(SMALLEST_BATCH, self.batch_size)
        return min(rows, self.batch_size, max(least, rows // self.min_steps))


class Model(Choice):
    """A network, an estimator or given logits, by family."""

    registry = MODELS
    selector = "family"
    family: str = Field(description="name of a registered model family, or file.py:Class")
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="name in the report and in MLflow")


class Teacher(Model):
    """A model of the ensemble; `copies` of it differ in their seed. `recipe` overrides keys of the teachers' recipe."""

    copies: int = Field(1, ge=1, description="number of models, each with a seed of its own")
    recipe: dict[str, object] = Field(default_factory=dict, description="keys that override teachers.recipe")


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

    members: tuple[Teacher, ...] = Field(min_length=1, description="the teachers")
    recipe: Recipe = Field(Recipe(), description="how teachers are trained")

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
    name: str = Field(description="name of a registered weighting")


class Ensemble(Section):
    """Candidates for the ensemble; the choice among them is made on val_ensemble, cross-fitted.

    Without `weightings` these are uniform, convex, greedy and stacking, as far as the rows of val_ensemble suffice and
    none takes longer than minutes.
    """

    weightings: Annotated[tuple[Weighting, ...], Field(min_length=1)] | None = Field(
        None, description="candidates; none: all four, as far as rows and minutes suffice"
    )
    pools: tuple[Literal["probs", "logits"], ...] = Field(
        ("probs", "logits"), min_length=1, description="what weights average: probabilities or logits"
    )
    folds: int = Field(5, ge=2, description="folds of the cross-fitting on val_ensemble")
    prune: bool = Field(False, description="leave out members that the ensemble does not miss")
    prune_tolerance: float = Field(0.001, ge=0, description="nats of NLL that leaving members out may cost")


class View(Choice):
    """One transform of the rows that the student is shown."""

    registry = VIEWS
    selector = "name"
    name: str = Field(description="name of a registered view")


class Views(Section):
    """Changed versions of each training row, which the teachers label and the student is shown, exactly the same ones.

    View 0 is the row itself; the others go through `transforms` in their order.
    """

    count: int = Field(1, ge=1, description="versions of each row, itself included")
    transforms: tuple[View, ...] = Field((), description="transforms that make the other versions, in order")
    seed: int = Field(0, ge=0, lt=1 << 32, description="key of the views' random numbers")

    @model_validator(mode="after")
    def _consistent(self) -> Views:
        if (self.count > 1) != bool(self.transforms):
            raise ValueError(f"expected transforms with a count above 1, got {self.count} and {len(self.transforms)}")
        return self


class Student(Section):
    """The ladder of capacities, its recipe and its loss."""

    capacities: tuple[Capacity, ...] = Field(min_length=1, description="student networks, smallest first")
    recipe: Recipe = Field(Recipe(), description="how students and baselines are trained")
    loss: Loss = Field(Loss(), description="the soft loss; search.losses replaces it")
    views: Views = Field(Views(), description="versions of each training row that the student sees")

    @model_validator(mode="after")
    def _names_differ(self) -> Student:
        _distinct([c.name for c in self.capacities])
        return self


class Logits(Section):
    """How raw logits are kept. `int8` and `top` are for the transfer set; what models are judged by stays exact."""

    dtype: Literal["float16", "float32", "int8"] = Field(
        "float16", description="type on disk; int8 keeps a byte per class and a step per row"
    )
    top: int | None = Field(None, ge=1, description="keep so many classes of a row, and the mass of the others")
    chunk_rows: int = Field(4096, ge=1, description="rows that are written at a time; a killed run resumes at the next")

    @property
    def exact(self) -> Logits:
        """The same, without what loses precision on purpose."""
        return self.model_copy(update={"top": None, "dtype": "float16" if self.dtype == "int8" else self.dtype})

    @model_validator(mode="after")
    def _one_encoding(self) -> Logits:
        if self.top is not None and self.dtype != "float16":
            raise ValueError(f"top: values are kept as float16, expected no other dtype, got {self.dtype!r}")
        return self


class Evaluation(Section):
    """How the reported figures are made."""

    resamples: int = Field(2000, ge=100, description="bootstrap resamples of an interval")
    confidence: float = Field(0.95, gt=0, lt=1, description="level of the intervals")
    latency_runs: int = Field(300, ge=10, description="timed calls of a latency; of a slow model fewer")
    batch_size: int = Field(256, ge=1, description="rows of one call when models answer a split")
    groups: tuple[str, ...] = Field((), description="columns of a table whose values are reported one by one")
    robustness_rows: int = Field(2000, ge=0, description="test rows that are disturbed to see what breaks; 0: none")


class Experiment(Section):
    """A whole experiment, in the order of the chain."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$",
        description="name of the experiment, of its MLflow experiment and of the registered model",
    )
    seed: int = Field(0, description="seed of weights and batches")
    data: Data = Field(description="the rows and their splits")
    teachers: Teachers = Field(description="the models that are distilled")
    logits: Logits = Field(Logits(), description="how the teachers' logits are stored")
    ensemble: Ensemble = Field(Ensemble(), description="how teachers are weighted")
    student: Student = Field(description="the student networks and how they learn")
    search: Search = Field(Search(), description="what the study searches")
    evaluation: Evaluation = Field(Evaluation(), description="how models are measured")
    gates: Gates = Field(SHIP_GATES, description="what promotion needs: ship, strict, or a list of figures and limits")
    ship: Literal["best", "student"] = Field(
        "best", description="what is best on val_search, taught or not; or the student"
    )

    @model_validator(mode="before")
    @classmethod
    def _strictly_the_student(cls, given: object) -> object:
        # Strict gates ask whether teachers helped, which is a question about the student.
        if isinstance(given, dict) and given.get("gates") == "strict":
            return {"ship": "student", **given}
        return given

    @model_validator(mode="after")
    def _kinds_fit(self) -> Experiment:
        kind = SOURCES.traits(self.data.source)["kind"]
        recipes = [
            ("student", self.student.recipe),
            *(("teachers", self.teachers.recipe_of(m)) for m in self.teachers.members),
        ]
        for owner, recipe in recipes:
            for name in ("shift", "flip", "brightness") if kind == "table" else ("noise",):
                if getattr(recipe.augment, name):
                    raise ValueError(f"{owner}.recipe.augment.{name}: not for {kind} data")
        if self.search.trials < len(self.student.capacities):
            count = len(self.student.capacities)
            raise ValueError(f"search.trials: expected one for each of {count} capacities, got {self.search.trials}")
        self._check_views(kind)
        self._check_search(kind)
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
        for index, view in enumerate(self.student.views.transforms):
            if kind not in VIEWS.traits(view.name)["kinds"]:
                fitting = [n for n in VIEWS.names() if kind in VIEWS.traits(n)["kinds"]]
                raise ValueError(f"student.views.transforms.{index}: for {kind} data {closest(view.name, fitting)}")
        given = [m.name for m in self.teachers.members if m.family == "given"]
        if given and self.student.views.count > 1:
            raise ValueError(f"student.views: teacher {given[0]!r} has given logits, which cannot label new views")

    def _check_search(self, kind: str) -> None:
        search = self.search
        choices = ["best", "smallest_within_one_se", *(c.name for c in self.student.capacities)]
        if search.select not in choices:
            raise ValueError(f"search.select: {closest(search.select, choices)}")
        if kind == "image":
            for path, knobs in (("search", search), ("search.baseline", search.baseline)):
                if knobs is not None and knobs.noise is not None:
                    raise ValueError(f"{path}.noise: not for image data")
        unseen = self.student.views.count > 1 or self.data.options.get("unlabeled_path")
        if search.unlabeled_fraction is not None and not unseen:
            raise ValueError(
                "search.unlabeled_fraction: expected student.views with a count above 1, or unlabelled rows; "
                "got neither"
            )
        spaces = list(search.ranges().values()) + [v for loss in search.losses for v in loss.options.values()]
        free = len(search.losses) > 1 or any(isinstance(space, Range) for space in spaces)
        if not free and search.trials > len(self.student.capacities):
            raise ValueError(f"search: expected a range in at least one knob for {search.trials} trials, got none")


def _distinct(names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"expected distinct names, got {name!r} {names.count(name)} times")
