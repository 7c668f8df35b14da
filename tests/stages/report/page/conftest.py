"""A report that may be changed, and a reader of pages."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

import pytest

from distillery.stages.report.record import Report


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
