"""MLflow runs: one parent per pipeline run, a child per teacher, ensemble, study, trial, baseline, student and release.

Children are found again by the fingerprint of what they describe, so a resumed or repeated pipeline run never logs a
thing twice. Runs are addressed by id through the client; no global active run is involved.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

import mlflow
from mlflow.entities import Metric, Param, RunStatus, RunTag
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient as MlflowClient

from distillery.address import without_login
from distillery.config.experiment import Experiment
from distillery.flows.connections import check_database, tracking_problem
from distillery.flows.environment import Places
from distillery.flows.safe_text import without_secrets
from distillery.flows.tracking import records
from distillery.flows.tracking.interface import RecordedRun
from distillery.store import Handle, fingerprint

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KEY = "distillery.key"
ROLE = "role"
FLUSH_SECONDS = 10.0  # between writes of a training curve, which take some 20 ms for each network of a stack
MODEL_TRAINING = {"mlflow.experimentKind": "custom_model_development"}
VIEW = "workflowType=machine_learning"  # without it MLflow opens its pages for language models
STORE_ERRORS = (MlflowException, ConnectionError)


class Run(RecordedRun):
    """One MLflow run, by id. Parameters, figures and tags wait and are written together: each call costs as much."""

    def __init__(self, client: MlflowClient, run_id: str, fresh: bool, new: bool = False) -> None:
        self.client, self.id, self.fresh = client, run_id, fresh
        self._new = new  # made by this process, so that nothing is there yet
        self._params: dict[str, str] = {}
        self._metrics: list[Metric] = []
        self._tags: dict[str, str] = {}
        self._flushed = time.monotonic()

    def params(self, values: Mapping[str, object]) -> None:
        """Parameters; those that the run has already stay as they are, since a parameter cannot change."""
        self._params |= {k: str(v) for k, v in values.items() if v is not None}

    def metrics(self, values: Mapping[str, object]) -> None:
        """Figures; those that do not exist (None) are left out."""
        now = int(time.time() * 1000)
        self._metrics += [Metric(k, float(v), now, 0) for k, v in values.items() if _is_number(v)]

    def epoch(self, epoch: int, values: dict[str, float]) -> None:
        """Adds a point to the training curves; written every `FLUSH_SECONDS`."""
        now = int(time.time() * 1000)
        self._metrics += [Metric(f"curve/{k.replace('/', '_')}", float(v), now, epoch) for k, v in values.items()]
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def tags(self, values: Mapping[str, object]) -> None:
        """Tags."""
        self._tags |= {k: str(v) for k, v in values.items()}

    def flush(self) -> None:
        """Writes what waits."""
        params, metrics, tags = self._params, self._metrics, self._tags
        self._params, self._metrics, self._tags = {}, [], {}
        if params and not self._new:
            existing = self.client.get_run(self.id).data.params
            params = {k: v for k, v in params.items() if k not in existing}
        written = [Param(*pair) for pair in params.items()], [RunTag(*pair) for pair in tags.items()]
        for start in range(0, max(1, len(metrics)), 800):
            part = metrics[start : start + 800]
            if part or any(written):
                self.client.log_batch(self.id, part, *written)
            written = [], []
        self._flushed = time.monotonic()

    def figure(self, figure: Figure, name: str) -> None:
        """Logs a matplotlib figure as a PNG."""
        self.client.log_figure(self.id, figure, name)

    def json(self, value: Mapping[str, object], name: str) -> None:
        """Logs a JSON or YAML file."""
        self.client.log_dict(self.id, dict(value), name)

    def file(self, path: Path, folder: str | None = None) -> None:
        """Logs a file."""
        self.client.log_artifact(self.id, str(path), folder)

    def end(self, status: str = "FINISHED") -> None:
        """Writes what waits and closes the run."""
        self.flush()
        self.client.set_terminated(self.id, status)


class Tracker:
    """The MLflow side of one pipeline run."""

    def __init__(self, places: Places, experiment: str) -> None:
        self.client = connect(places)
        self.experiment_id = _experiment(self.client, experiment, places.artifacts)
        self._parent: Run | None = None
        self.record: records.Record | None = None
        self._experiment, self._runs = experiment, places.runs
        self._children: dict[str, Run] = {}

    @contextmanager
    def pipeline_run(self, config: Experiment) -> Iterator[Run]:
        """The parent run. One that was left unfinished by a process that died is continued; an error names its page."""
        key = fingerprint("pipeline", config)
        run, self.record = self._left(key) or self._begun(key, config.name)
        run.tags({"host": socket.gethostname(), "pid": os.getpid()})
        run.flush()
        self._parent = run
        try:
            with _closing(run), self.record.held():
                yield run
        except Exception as error:
            error.add_note(f"MLflow: {self.url(run)}")
            raise

    @property
    def parent(self) -> Run:
        """The run of the whole pipeline, while `pipeline_run` holds."""
        assert self._parent is not None
        return self._parent

    def uses(self, handles: list[Handle]) -> None:
        """Notes that the run needs these stages, so that no sweep removes them."""
        if self.record is not None:
            self.record.add(handles)

    def _left(self, key: str) -> tuple[Run, records.Record] | None:
        """The run of a process that died, and its record."""
        for run in self._all(key, "and attributes.status = 'RUNNING'"):
            run_id = run.info.run_id
            record = records.take_over(records.file_of(self._runs, self._experiment, run_id))
            if record is not None:
                return Run(self.client, run_id, fresh=False), record
        return None

    def _begun(self, key: str, name: str) -> tuple[Run, records.Record]:
        run = self._create(name, {KEY: key, ROLE: "pipeline"})
        return run, records.begin(records.file_of(self._runs, self._experiment, run.id))

    @contextmanager
    def child(
        self, role: str, name: str, key: str, parent: RecordedRun | None = None, *, new: bool = False
    ) -> Iterator[Run]:
        """The run that describes `key`, found again or made below the pipeline's run; not looked for if it is `new`."""
        run = self._create_below(role, name, key, parent) if new else self._find_or_create(role, name, key, parent)
        self._children[name] = run
        if not run.fresh:
            yield run  # finished before; closing it again would change its duration
            return
        with _closing(run):
            yield run

    def describes(self, run: RecordedRun, known_as: str) -> None:
        """Lets `complete` find a child by more than its name, which several seeds share."""
        assert isinstance(run, Run)
        self._children[known_as] = run

    def complete(self, role: str, name: str, key: str, figures: Mapping[str, object], known_as: str) -> None:
        """Adds figures to the child that is known so, unless it has them already; made if there is none."""
        if known_as not in self._children:
            with self.child(role, name, f"{name}-{key}") as run:
                run.params({"role": role})
            self.describes(run, known_as)
        run = self._children[known_as]
        existing = self.client.get_run(run.id).data.metrics
        run.metrics({k: v for k, v in figures.items() if k not in existing})
        run.flush()

    def _find_or_create(self, role: str, name: str, key: str, parent: RecordedRun | None) -> Run:
        for run in self._all(key):
            if run.info.status == "FINISHED":
                return Run(self.client, run.info.run_id, fresh=False)
            # Begun by a process that died, or failed: it goes on, so that what hangs below it keeps its parent.
            self.client.update_run(run.info.run_id, "RUNNING")
            return Run(self.client, run.info.run_id, fresh=True)
        return self._create_below(role, name, key, parent)

    def _create_below(self, role: str, name: str, key: str, parent: RecordedRun | None) -> Run:
        above = parent or self.parent
        return self._create(name, {KEY: key, ROLE: role, "mlflow.parentRunId": above.id})

    def keys(self, prefix: str) -> dict[str, bool]:
        """Keys with a prefix that runs of this experiment have, and whether one that has it is finished."""
        keys: dict[str, bool] = {}
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment_id], f"tags.`{KEY}` LIKE '{prefix}%'", max_results=1000, page_token=token
            )
            for run in page:
                key = run.data.tags[KEY]
                keys[key] = keys.get(key, False) or run.info.status == "FINISHED"
            if not (token := page.token):
                return keys

    def url(self, run: Run, artifact: str | None = None) -> str:
        """Address of a run's page, or of an artifact on it; without a server, where `make ui` will show it."""
        uri = mlflow.get_tracking_uri()
        base = without_login(uri) if uri.startswith("http") else "http://127.0.0.1:5000"
        path = "" if artifact is None else f"/artifacts/{artifact}"
        return f"{base.rstrip('/')}/#/experiments/{self.experiment_id}/runs/{run.id}{path}?{VIEW}"

    def _all(self, key: str, more: str = "") -> list[MlflowRun]:
        return list(self.client.search_runs([self.experiment_id], f"tags.`{KEY}` = '{key}' {more}", max_results=50))

    def _create(self, name: str, tags: dict[str, str]) -> Run:
        run = self.client.create_run(self.experiment_id, run_name=name, tags=tags)
        return Run(self.client, run.info.run_id, fresh=True, new=True)


def connect(places: Places) -> MlflowClient:
    """A client of the tracking store.

    Raises:
        InputError: It does not answer, or refuses the login.
    """
    uri = places.tracking_uri
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    _use(uri)
    try:
        if uri.startswith(("postgresql", "mysql")):
            check_database(uri)
        client = MlflowClient(uri)
        client.search_experiments(max_results=1)
    except Exception as error:
        raise tracking_problem(uri, error) from error
    return client


def _use(uri: str) -> None:
    # mlflow writes the address into the environment, where it would outlive a change of DISTILLERY_HOME.
    given = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    if given is None:
        os.environ.pop("MLFLOW_TRACKING_URI", None)


def _experiment(client: MlflowClient, name: str, artifacts: str | None) -> str:
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            location = f"{artifacts}/{name}" if artifacts else None
            return str(client.create_experiment(name, artifact_location=location, tags=MODEL_TRAINING))
        except MlflowException:
            experiment = client.get_experiment_by_name(name)  # another process was faster
            assert experiment is not None
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    return str(experiment.experiment_id)


@contextmanager
def _closing(run: Run) -> Iterator[Run]:
    try:
        yield run
    except BaseException as error:
        run.tags({"error": without_secrets(f"{type(error).__name__}: {error}")[:4000]})
        run.end(RunStatus.to_string(RunStatus.KILLED if isinstance(error, KeyboardInterrupt) else RunStatus.FAILED))
        raise
    run.end()


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value
