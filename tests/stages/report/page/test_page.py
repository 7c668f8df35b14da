"""The page: all of the report is on it, in HTML that is whole, safe and needs no network."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from reports import page_of

from distillery.stages.report.page import HERE
from distillery.stages.report.page.words import fixed, number, setting, settings_of
from distillery.stages.report.record import Report
from distillery.stages.roles import Role

ROOT = Path(__file__).parents[4]
HOSTILE = ['<script>alert("x")</script>', '"><img src=x onerror=alert(1)>', "</title></svg></style>&amp; 'q' {{ 7*7 }}"]


def rows_of(section: Any) -> list[list[str]]:
    """Texts of the cells of all lines in the bodies of a section's tables."""
    lines = [line for body in section.all("tbody") for line in body.all("tr")]
    return [[cell.text for cell in line.inside if not isinstance(cell, str)] for line in lines]


def test_every_gate_is_there_with_its_state_and_figures(tree: dict[str, Any], read_page: Any) -> None:
    """contract: name, limit, state and figure of each; what blocks stands beside the verdict."""
    root = read_page(page_of(tree))
    lines = rows_of(root.by_id("gates"))
    assert len(lines) == len(tree["promotion"]["gates"])
    states = {True: "✓ passed", False: "✗ failed", None: "○ open"}
    for gate, (state, name, wanted, found, _) in zip(tree["promotion"]["gates"], lines, strict=True):
        assert state == states[gate["passed"]]
        assert gate["text"].startswith(f"{name}: expected {wanted}, ")
        assert found.startswith("not judged: " if gate["value"] is None else f"{gate['value']:.4g}")
    assert {line[0] for line in lines} == set(states.values())
    verdict = root.by_id("verdict").text
    assert "Version 3 was not promoted." in verdict and f"To use: {tree['advice']['choice']} ." in verdict
    assert "parity: expected at most 0.0001, found 1" in verdict and "there is no champion yet" in verdict
    assert all(sentence in verdict for sentence in tree["advice"]["why"])


def test_what_was_chosen_on_which_rows_is_told(tree: dict[str, Any], read_page: Any) -> None:
    """contract: the splits that chose, and how often the test rows have decided."""
    verdict = read_page(page_of(tree)).by_id("verdict").text
    assert "The choice is made on the 150 rows of val_search" in verdict
    assert "Figures are from 300 rows of test, on which nothing of this was chosen." in verdict
    assert "Promotion is decided on test." in verdict
    assert "These test rows have served 2 decisions on promotion so far; 3 more of this model" in verdict


def test_there_is_one_latency_and_it_says_where_it_was_measured(tree: dict[str, Any], read_page: Any) -> None:
    """contract: card, table, choices and costs show the figure of the row; a request has a name of its own."""
    root = read_page(page_of(tree))
    candidate = Report.model_validate(tree).candidate
    shown = f"{number(candidate.latency_ms_p50)} ms"
    (card,) = [c for c in root.by_id("verdict").all("li") if c.text.startswith("Latency, batch 1")]
    assert card.all("b")[0].text == shown and "a whole request, preprocessing included: 0.1 ms" in card.text
    (choice,) = [line for line in rows_of(root.by_id("verdict")) if line[0].startswith(candidate.role.words)]
    assert choice[4] == number(candidate.latency_ms_p50)
    assert "from encoded rows, on one thread, in onnxruntime." in root.by_id("models").text
    assert {row["runtime"] for row in tree["rows"]} == {"onnxruntime"}
    costs = root.by_id("costs").text
    assert f"{shown}) is not faster" in costs or "both in onnxruntime" in costs
    tree["rows"][0]["runtime"] = "scikit-learn"
    assert "in onnxruntime; teacher mlp-00 in scikit-learn." in read_page(page_of(tree)).by_id("models").text


def test_every_model_is_there_with_its_settings(tree: dict[str, Any], read_page: Any) -> None:
    """contract: a line in the table, a line of settings, and a point that tells them in each view of the front."""
    models = read_page(page_of(tree)).by_id("models")
    lines, points = rows_of(models), [p.all("title")[0].text for p in models.all("g", "point")]
    report = Report.model_validate(tree)
    for row in report.rows:
        name = row.title
        assert [line for line in lines if line[0] == row.role.words and line[1].startswith(row.name)]
        shown = settings_of(row, report)
        told = [p for p in points if p == name or p.startswith((f"{name} accuracy", f"{name} (chosen)"))]
        assert len(told) == 4
        for knob, value in shown.items():
            assert all(f"{knob}: {value}" in text for text in told)
            assert any(line[0] == name and f"{knob} {value}" in line[1] for line in lines if len(line) == 2)
    candidate = report.candidate
    assert sum(p.startswith(f"int8 {candidate.name} accuracy") for p in points) == 4
    latencies = {"float32": candidate.latency_ms_p50, "int8": 0.01}
    for row in tree["served"]:
        (line,) = [line for line in lines if line[0] == row["name"]]
        assert line[5] == number(row["request_ms_p50"]) and line[8] == number(latencies[row["name"]])
    assert {"T", "alpha", "loss", "lr", "weight decay", "epochs", "calibrated by"} <= set(
        settings_of(report.compared(Role.STUDENT), report)
    )


def test_every_trial_is_there_with_its_setting(tree: dict[str, Any], read_page: Any) -> None:
    """contract: of both studies, in the table and on its point."""
    search = read_page(page_of(tree)).by_id("search")
    trials = [t for key in ("search", "baseline_search") for t in tree[key]["trials"]]
    lines = [line for line in rows_of(search) if len(line) > 4]
    points = [p.all("title")[0].text for p in search.all("g", "point")]
    assert len(lines) == len(points) == len(trials) > 4
    for trial, line, point in zip(trials, lines, points, strict=True):
        assert line[0] == str(trial["number"]) and line[1].startswith(trial["capacity"])
        assert fixed(trial["nll"]) in line and fixed(trial["nll"]) in point
        for knob, value in setting(trial["setting"]).items():
            assert value in line and f"{knob}: {value}" in point


def test_what_members_classes_disturbances_and_costs_are_is_told(tree: dict[str, Any], read_page: Any) -> None:
    """contract: a line for each, with the figures of the tree."""
    root = read_page(page_of(tree))
    members, classes = rows_of(root.by_id("ensemble")), rows_of(root.by_id("classes"))
    candidate = Report.model_validate(tree).candidate.role
    for name, weight in tree["weights"]["members"].items():
        assert any(line[:2] == [name, f"{weight:.4g}"] for line in members)
    for place, found in enumerate(tree["by_class"]):
        assert classes[place][:3] == [found["name"], f"{found['rows']:,}", fixed(found["recall"][candidate])]
    shown = rows_of(root.by_id("robustness"))
    assert [line[0] for line in shown] == [r["disturbance"] for r in tree["robustness"]]
    costs = root.by_id("costs")
    assert [line[0] for line in rows_of(costs)] == list(tree["ledger"]["stages"])
    for figure in (tree["passes"]["made"], tree["passes"]["in_the_loop"]):
        assert f"{figure:,}" in costs.text
    assert "money" not in costs.text


def test_what_to_know_about_members_and_weightings_is_told(tree: dict[str, Any], read_page: Any) -> None:
    """contract: every note, and every weighting that was not tried with the reason; nothing where there is neither."""
    tree["weights"] |= {"notes": [], "left_out": {}}
    ensemble = read_page(page_of(tree)).by_id("ensemble")
    assert "Notes on the members" not in ensemble.text and "Not tried" not in ensemble.text
    tree["weights"] |= {"notes": ["a first note", "another"], "left_out": {"stacking": "would take about 3 days"}}
    ensemble = read_page(page_of(tree)).by_id("ensemble")
    assert [note.text for note in ensemble.all("details")[0].all("li")] == ["a first note", "another"]
    assert "Not tried: stacking; would take about 3 days." in ensemble.text


def test_money_is_shown_where_there_is_a_price(tree: dict[str, Any], read_page: Any) -> None:
    """golden: 12.5 s of one stage at 7,200 an hour are 25."""
    tree["price_per_hour"] = 7200.0
    tree["ledger"]["stages"]["teachers"] |= {"computed": 12.5, "found": 0.0}
    costs = read_page(page_of(tree)).by_id("costs")
    (line,) = [line for line in rows_of(costs) if line[0] == "teachers"]
    assert line[-1] == "25.00" and "at 7200 per hour of one process" in costs.text


def test_importances_are_drawn_or_said_to_be_missing(tree: dict[str, Any], read_page: Any) -> None:
    """contract: with shares the method is in the title; without, the reason stands there."""
    search = read_page(page_of(tree)).by_id("search")
    assert f"No chart: {tree['search']['importances']['note']}." in search.text
    tree["search"]["importances"] |= {"shares": {"lr": 0.5}, "of": "nll after 3 epochs", "trials": 44, "note": ""}
    search = read_page(page_of(tree)).by_id("search")
    assert "fANOVA of NLL after 3 epochs, 44 trials" in search.all("h4")[0].text
    assert ["lr", "50 %"] in rows_of(search)


@pytest.mark.parametrize("text", HOSTILE)
def test_what_users_write_is_only_text(tree: dict[str, Any], read_page: Any, text: str) -> None:
    """property: names of classes, members, capacities, groups and reasons add no element, and stand there as given."""
    before = {e.name for e in read_page(page_of(tree)).everything()} | {"dl", "ul"}
    tree["name"] = text
    tree["by_class"][0]["name"] = tree["worst_class_drop"]["note"] = text
    tree["promotion"]["reasons"].append(text)
    tree["promotion"]["gates"][0]["text"] = f"{text}: expected at least 0, not judged: {text}"
    tree["groups"] = {
        "table": [{"column": text, "value": text, "rows": 3, "accuracy": {"student": 0.5, "ensemble": 1.0}}],
        "worst": {"value": 0.1, "low": 0.0, "high": 0.2, "note": text},
    }
    tree["data"]["skipped_rows"], tree["store"]["data"] = [text], text
    name = next(iter(tree["weights"]["members"]))
    tree["weights"]["members"][text] = tree["weights"]["members"].pop(name)
    tree["weights"] |= {"notes": [text], "left_out": {text: text}}
    tree["search"]["trials"][0] |= {"capacity": text, "state": "fail", "reason": text}
    tree["robustness"][0]["disturbance"] = text
    tree["mlflow_run"] = {"id": text, "url": f"http://host/{text}", "report": ""}
    root = read_page(page_of(tree))
    assert {e.name for e in root.everything()} <= before
    assert len(root.all("script")) == 1 and "alert" not in root.all("script")[0].text
    assert not [a for e in root.everything() for a in e.attributes if a.startswith("on")]
    wanted = " ".join(text.split())
    for id_ in ("gates", "ensemble", "search", "classes", "robustness", "run", "verdict"):
        assert wanted in root.by_id(id_).text, id_


def test_nothing_is_loaded_from_anywhere(tree: dict[str, Any], read_page: Any) -> None:
    """contract: no address but that of the run in MLflow, which is a link; nothing in the styles or the script."""
    tree["mlflow_run"] = {"id": "1", "url": "http://127.0.0.1:5000/#/run", "report": ""}
    html = page_of(tree)
    root = read_page(html)
    for element in root.everything():
        assert not {"src", "srcset", "data", "action", "xlink:href"} & set(element.attributes)
        if "href" in element.attributes:
            own = element.attributes["href"].startswith(("#", "data:,"))
            assert own or (element.name == "a" and element.attributes["href"] == tree["mlflow_run"]["url"])
    assert re.findall(r"https?://[^\"<]*", html) == ["http://127.0.0.1:5000/#/run"]
    css = (HERE / "templates" / "page.css").read_text()
    js = (HERE / "templates" / "page.js").read_text()
    assert not re.search(r"url\(|@import|//\w", css) and not re.search(r"fetch|XMLHttp|import|innerHTML|eval", js)


def test_every_picture_has_a_name_and_a_tab_stop(tree: dict[str, Any], read_page: Any) -> None:
    """contract: of the points of a picture exactly one is in the tab order, and each says aloud what it tells."""
    root = read_page(page_of(tree))
    charts = [svg for svg in root.all("svg", "chart") if svg.all("g", "point")]
    assert len(charts) >= 4 + 2 + 2 + 1 + 2
    for chart in charts:
        assert chart.attributes["aria-label"]
        points = chart.all("g", "point")
        assert [p.attributes["tabindex"] for p in points].count("0") == 1
        assert all(p.attributes["aria-label"].replace("; ", " ") == p.all("title")[0].text for p in points)
    assert {h.attributes.get("scope") for h in root.all("th")} <= {"col", "row"}
    sections = {link.attributes["href"] for link in root.all("nav")[0].all("a")}
    assert sections == {f"#{s.attributes['id']}" for s in root.all("section")}


def test_a_report_of_given_logits_is_readable(tree: dict[str, Any], read_page: Any) -> None:
    """contract: where members cannot be run, their costs are open and the page says so."""
    for row in tree["rows"]:
        if row["role"] in ("teacher", "ensemble"):
            row |= {"params": None, "macs": None, "size_mb": None, "latency_ms_p50": None, "throughput_per_s": None}
            row |= {"runtime": None}
    tree["compression"] = dict.fromkeys(tree["compression"])
    tree["ledger"]["serving"] |= {"ensemble_ms": None, "predictions_until_paid": None}
    tree["ledger"]["caching"] = dict.fromkeys(tree["ledger"]["caching"])
    tree["passes"] |= {"made": 0, "in_the_loop": 0}
    tree["robustness"] = []
    root = read_page(page_of(tree))
    assert "The ensemble cannot be run" in root.text and "the members’ logits were given" in root.text
    assert "Disturbed rows were not tried" in root.text


def test_a_student_that_was_not_registered_has_no_version(tree: dict[str, Any], read_page: Any) -> None:
    """contract: a run without a registry tells what the gates found, and names no version."""
    tree["promotion"]["version"] = None
    small = Report.model_validate(tree).candidate.role.words
    verdict = read_page(page_of(tree)).by_id("verdict").text
    assert f"The {small} does not pass its gates; it is not registered." in verdict and "Version" not in verdict


def test_the_page_of_equal_reports_is_equal(tree: dict[str, Any]) -> None:
    """determinism: nothing but the report is on the page."""
    assert page_of(tree) == page_of(tree)


def test_what_the_page_is_made_of_is_installed(tmp_path: Path) -> None:
    """contract of the package: a build holds templates, styles and script."""
    setup = "import setuptools; setuptools.setup()"
    steps = ["-q", "egg_info", "--egg-base", str(tmp_path), "build_py", "--build-lib", str(tmp_path / "lib")]
    subprocess.run([sys.executable, "-c", setup, *steps], cwd=ROOT, check=True, capture_output=True)
    package = tmp_path / "lib" / "distillery"
    built = {p.name for p in (package / "stages" / "report" / "page" / "templates").iterdir()}
    assert built == {p.name for p in (HERE / "templates").iterdir()} >= {"page.html", "page.css", "page.js"}
