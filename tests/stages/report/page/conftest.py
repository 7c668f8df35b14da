"""A report of the tiny chain, and a reader of pages."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from tiny_chain import FinishedChain

from distillery.config.gates import SHIP_GATES
from distillery.ops.metrics import Interval
from distillery.stages.export.record import ServedModel, ServedModels
from distillery.stages.promotion.gates import judge
from distillery.stages.promotion.record import DecisionCount, Promotion
from distillery.stages.report import assembly
from distillery.stages.report.record import Report
from distillery.store import Handle, Store

REQUESTS = {"request_ms_p50": 0.1, "request_ms_p95": 0.2, "request_ms_p99": 0.3, "requests_per_s": 9e4}
EXPORT = Handle("export", "student", "/no/where", "0", {"parity": 1e-7, "onnx_mb": 0.5, **REQUESTS}, 3.0)
FOUND = {"worst_class_drop": Interval(0.1, 0.0, 0.2, "cat"), "parity": Interval(1.0, 1.0, 1.0, "at row 3")}


def served(store: Store) -> Handle:
    """What was measured of the exported files."""
    figures: dict[str, Any] = {"accuracy": 0.91, "nll": 0.3, "ece": 0.02, "size_mb": 0.5, **REQUESTS}
    models = [
        ServedModel(name="float32", **figures),
        ServedModel(name="int8", **{**figures, "request_ms_p50": 0.05}, latency_ms_p50=0.01),
    ]

    def build(work: Path) -> dict[str, Any]:
        ServedModels(models=models).write(work)
        return {}

    return store.stage("served", "student", "fixed", build)


@pytest.fixture(scope="session")
def report(finished: FinishedChain) -> Report:
    """The report with one gate passed, one failed and the others open."""
    logits = [handle for part in finished.logits.values() for handle in part]
    networks = [h for f in finished.finals for part in (f.students, f.plain, f.tuned) for h in part]
    stages = [finished.data, finished.ensemble, finished.search, finished.alone, finished.evaluation, EXPORT]
    gates = judge(SHIP_GATES, FOUND)
    words = {True: "passed", False: "FAILED", None: "open"}
    reasons = [*(f"{words[gate.passed]} {gate.text}" for gate in gates), "there is no champion yet"]
    promotion = Promotion(
        promoted=False, version=3, reasons=reasons, gates=gates, decisions=DecisionCount(same_rows=2, all=5)
    )
    handles = [*stages, served(finished.store), *finished.members, *logits, *networks]
    parts = (finished.data, finished.ensemble, finished.search, finished.alone, finished.evaluation, EXPORT)
    return assembly.assemble(finished.config, *parts, promotion, handles, 12.5)


@pytest.fixture
def tree(report: Report) -> dict[str, Any]:
    """The report as a tree of plain values that a test may change."""
    return report.model_dump(mode="json")


VOID = {"meta", "link", "input", "br", "img"}


@dataclass
class Element:
    """One element of a page, with what is inside."""

    name: str
    attributes: dict[str, str | None]
    inside: list[Element | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All words inside, spaces made single."""
        parts = (part if isinstance(part, str) else part.text for part in self.inside)
        return " ".join(" ".join(parts).split())

    def all(self, name: str, class_: str = "") -> list[Element]:
        """The elements inside of a name, and of a class where one is given."""
        found = []
        for part in self.inside:
            if isinstance(part, Element):
                if part.name == name and (not class_ or class_ in (part.attributes.get("class") or "").split()):
                    found.append(part)
                found += part.all(name, class_)
        return found

    def by_id(self, id_: str) -> Element:
        """The element of this id, of which there is one."""
        (found,) = [e for e in self.everything() if e.attributes.get("id") == id_]
        return found

    def everything(self) -> list[Element]:
        """All elements inside."""
        own = [part for part in self.inside if isinstance(part, Element)]
        return [e for part in own for e in (part, *part.everything())]


class Reader(HTMLParser):
    """Reads a page strictly: what is opened is closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Element("page", {})
        self._open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"<{tag}> has an attribute twice"
        element = Element(tag, dict(attrs))
        self._open[-1].inside.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self._open[-1].name == tag, f"</{tag}> closes <{self._open[-1].name}>"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        self._open[-1].inside.append(data)


def read(html: str) -> Element:
    """The elements of a page."""
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert len(reader._open) == 1
    return reader.root


@pytest.fixture(scope="session")
def read_page() -> Any:
    """`read`."""
    return read
