"""The page in a browser: what its script makes of it, and that it complains about nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from reports import page_of

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
QUIET = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-pings",
)
USED = """<script>
const table = document.querySelector("#models table.sortable"), heads = [...table.tHead.rows[0].cells];
const button = heads.find(head => head.textContent === "NLL").querySelector("button");
button.click();
if (location.hash === "#down") button.click();
const points = document.querySelectorAll(".view svg .point");
points[0].focus();
points[0].dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }));
</script>"""

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome was found")


def opened(html: str, folder: Path, hash_: str = "") -> tuple[str, list[str]]:
    """(the page as it is after its script ran, what the browser's console says)."""
    file = folder / "report.html"
    file.write_text(html)
    assert BROWSER is not None
    own = (
        "--headless=new",
        "--disable-gpu",
        "--no-sandbox",
        "--enable-logging=stderr",
        f"--user-data-dir={folder / 'own'}",
    )
    command = [BROWSER, *own, *QUIET, "--virtual-time-budget=2000", "--dump-dom", f"file://{file}{hash_}"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=True, env={**os.environ, "HOME": str(folder)}
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_the_script_runs_without_a_complaint(tree: dict[str, Any], read_page: Any, tmp_path: Path) -> None:
    """contract: every head of a sortable table has a button, every point its text, and the console is empty."""
    dom, console = opened(page_of(tree), tmp_path)
    assert console == []
    root = read_page(dom)
    tables = root.all("table", "sortable")
    assert len(tables) >= 7
    for table in tables:
        heads = table.all("thead")[0].all("th")
        assert [len(head.all("button")) for head in heads] == [1] * len(heads)
    points = root.all("g", "point")
    before = read_page(page_of(tree)).all("g", "point")
    assert [" ".join(p.attributes["data-tip"].split()) for p in points] == [p.all("title")[0].text for p in before]
    assert not [p for p in points if p.all("title")] and "hidden" in root.by_id("tip").attributes


@pytest.mark.parametrize("hash_", ["", "#down"])
def test_a_click_sorts_and_a_key_moves_on(tree: dict[str, Any], read_page: Any, tmp_path: Path, hash_: str) -> None:
    """reference: the models by Python's sort; the second point tells all its settings in the box."""
    dom, console = opened(page_of(tree).replace("</body>", f"{USED}</body>"), tmp_path, hash_)
    assert console == []
    root = read_page(dom)
    table = root.by_id("models").all("table", "sortable")[0]
    column = [head.text for head in table.all("thead")[0].all("th")].index("NLL")
    shown = [float(line.all("td")[column - 1].text) for line in table.all("tbody")[0].all("tr")]
    assert shown == sorted(shown, reverse=bool(hash_)) != [round(r["nll"], 4) for r in tree["rows"]]
    sorted_by = [h.attributes["aria-sort"] for h in table.all("th") if "aria-sort" in h.attributes]
    assert sorted_by == ["descending" if hash_ else "ascending"]
    points, tip = root.all("g", "point"), root.by_id("tip")
    lines = points[1].attributes["data-tip"].split("\n")
    assert "hidden" not in tip.attributes and tip.all("b")[0].text == lines[0]
    pairs = zip(tip.all("dt"), tip.all("dd"), strict=True)
    assert [f"{name.text}: {value.text}" for name, value in pairs] == lines[1:]
    assert [p.attributes["tabindex"] for p in points[:2]] == ["-1", "0"]


def test_a_complaint_would_be_seen(tree: dict[str, Any], tmp_path: Path) -> None:
    """control: a script that fails is in the console."""
    _, console = opened(page_of(tree).replace('"use strict";', '"use strict"; nowhere();'), tmp_path)
    assert any("nowhere is not defined" in line for line in console)
