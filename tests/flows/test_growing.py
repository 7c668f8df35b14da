"""One more image in the folder: what rests on it is made again, and nothing else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from distillery.config.experiment import Experiment
from distillery.flows.flow import pipeline
from distillery.stages.data.dataset import Dataset
from distillery.stages.data.preparation import prepare, read_source
from distillery.store import Store

RESNET = {"family": "timm", "arch": "resnet10t", "kwargs": {"channels": [2, 4, 4, 8], "stem_width": 4}}
TREE: dict[str, Any] = {
    "name": "growing",
    "teachers": {
        "members": [
            {"name": "net", **RESNET},
            {"name": "linear", "family": "sklearn", "estimator": "sklearn.linear_model.LogisticRegression"},
        ],
        "recipe": {"epochs": 1, "lr": 0.01},
    },
    "student": {
        "capacities": [{"name": "small", **RESNET}],
        "recipe": {"epochs": 1, "lr": 0.01},
        "views": {"count": 2, "transforms": [{"name": "shift", "size": 0.1}]},
    },
    "search": {"trials": 1, "finalists": 1, "seeds": 1},
    "evaluation": {"resamples": 100, "latency_runs": 10},
    "gates": [{"figure": "parity", "at_most": 0.0001}],
}
MINE = {"data", "evaluation", "served"}  # these look at all rows


def drawn(place: Path, numbers: range) -> None:
    """Digits 0 to 2 in folders by class."""
    bunch = load_digits(n_class=3)
    for number in numbers:
        file = place / str(bunch.target[number]) / f"{number:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((bunch.images[number] * 15).astype(np.uint8)).save(file)


@pytest.fixture(scope="module")
def grown(prefect_server: str, new_home: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function: (stages of which something was made, the report) of a run after an image was added to a split."""
    root = new_home(tmp_path_factory.mktemp("growing"))
    photos, left = root / "photos", iter(range(150, 500))
    drawn(photos, range(150))
    data = {"source": "folder", "path": str(photos), "image_size": 8, "split": {"order": "hashed"}}
    config = Experiment(**TREE, data=data)

    def run(split: str) -> tuple[set[str], dict[str, Any]]:
        _add(split)
        before = _made(root)
        report = pipeline(config)
        return {Path(stage).parent.name for stage in _made(root) - before}, report

    def _add(split: str) -> None:
        """The next digits, one by one, until one falls into the split; the others are taken away again."""
        while True:
            drawn(photos, range((number := next(left)), number + 1))
            rows = read_source(config.data)
            mine = next(row for row, name in enumerate(rows.names) if name.endswith(f"{number:03d}.png"))
            if mine in Dataset(prepare(config.data, rows, Store(root / "elsewhere"))).splits[split]:
                return
            Path(rows.names[mine]).unlink()

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTILLERY_HOME", str(root))
        patch.setenv("DISTILLERY_WORKERS", "1")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        first = pipeline(config)
        assert first.promotion.promoted
        yield run


def _made(home: Path) -> set[str]:
    return {str(manifest.parent) for manifest in (home / ".distillery").glob("*/*/manifest.json")}


def test_an_image_of_test_trains_nothing(grown: Callable[[str], Any]) -> None:
    """Contract: the same student is judged on one more row, and stays the champion without being exported again."""
    made, report = grown("test")
    assert made == MINE | {"logits"}
    assert report.promotion.version == 1 and report.promotion.promoted
    assert {"teachers", "search", "students", "ensemble", "export"} <= set(report.cached)


def test_an_image_of_val_search_trains_no_teacher(grown: Callable[[str], Any]) -> None:
    """Contract: the search and what it chooses are made again, from the logits that are there."""
    made, report = grown("val_search")
    assert made == MINE | {"logits", "search", "students", "export"}
    assert {"teachers", "ensemble", "profile"} <= set(report.cached)
