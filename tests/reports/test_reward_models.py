"""What the report says of a reward model's validation, and that nothing in its file is trusted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.core.run_folder import REWARD_REPORT, RunFolder
from posttrain.reports.page import build_report
from posttrain.reports.reward_models import build_reward
from tests.reports.made_up_run import write_run

HASH = "ab" * 16
REPORT: dict[str, Any] = {
    "pairs": 600,
    "accuracy": {"value": 0.71, "low": 0.67, "high": 0.745},
    "best_accuracy": 0.81,
    "normalised_accuracy": 0.6995,
    "calibration": {
        "error": {"value": 0.036, "low": 0.03, "high": 0.085},
        "error_if_calibrated": 0.046,
        "bins": [{"confidence": 0.55, "accuracy": 0.5}, {"confidence": 0.9, "accuracy": 0.95}],
    },
    "length": {"slope": {"value": -0.02, "low": -0.03, "high": -0.01}, "at_equal": "quality"},
    "accuracy_by_margin": [{"from": 0.0, "to": 0.4, "value": 0.55, "low": 0.46, "high": 0.64, "pairs": 120}],
}


def test_figures_reliability_and_margins_are_shown() -> None:
    view = build_reward(REPORT)
    assert view is not None
    facts = dict(view.facts)
    assert (
        facts["pairs"] == "600"
        and facts["accuracy"].startswith("71")
        and "by chance alone" in facts["calibration error"]
    )
    assert "one more token at equal quality" in facts
    [chart] = view.curves
    assert chart.diagonal and len(chart.lines[0].dots) == 2
    [(margin, _, _, pairs)] = view.margins
    assert margin == "0 to 0.4" and pairs == "120"
    assert build_reward({}) is None


@pytest.mark.parametrize(
    "report", [{"calibration": 3, "length": [], "accuracy_by_margin": [1, {"from": "x"}]}, {"a": 1}]
)
def test_a_file_of_another_shape_gives_what_can_be_read(report: dict[str, Any]) -> None:
    view = build_reward(report)
    assert view is not None and view.facts == [] and view.curves == [] and view.margins == []


def test_the_page_shows_it_below_its_stage_with_everything_escaped(tmp_path: Path) -> None:
    folder = RunFolder(write_run(tmp_path / "run"))
    run = json.loads(folder.run_json.read_text())
    run["stages"][0]["outputs"]["reward_model"] = HASH
    folder.run_json.write_text(json.dumps(run))
    (folder.artifacts / HASH).mkdir(parents=True)
    hostile = {**REPORT, "rows_are": "training", "attributes": {"<script>alert(1)</script>": {"correlation": 0.5}}}
    (folder.artifacts / HASH / REWARD_REPORT).write_text(json.dumps(hostile))
    page = build_report(folder.root).read_text()
    assert "What held-out rows say of the reward model" in page and "Reliability" in page
    assert "trained on: they show nothing" in page and "<script>alert" not in page
    run["stages"][0]["outputs"]["reward_model"] = "../../etc"
    folder.run_json.write_text(json.dumps(run))
    assert "What held-out rows say" not in build_report(folder.root).read_text()
