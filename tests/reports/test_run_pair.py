"""Two runs side by side: aligned by task, metric and stage, with what differs, and nothing in the page alive."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain.core.errors import StorageError
from posttrain.reports.recipe_differences import list_differences
from posttrain.reports.run_files import RunFiles, load_run
from posttrain.reports.run_pair import build_run_pair, render_run_pair, write_run_pair
from tests.reports.made_up_items import files_of, measure, write_table
from tests.reports.made_up_run import write_run
from tests.reports.page_reader import PageReader
from tests.reports.payloads import PAYLOADS


def read(path: Path) -> PageReader:
    return PageReader(path.read_text(encoding="utf-8"), has_script=False)


def test_the_page_of_two_runs_shows_matrices_gates_monitors_and_cost(tmp_path: Path) -> None:
    roots = (write_run(tmp_path / "first"), write_run(tmp_path / "second", num_finished=1))
    page = read(write_run_pair(roots, tmp_path / "runs.html"))
    assert page.faults == []
    for expected in (
        "first and second",
        "Stage 2 (sft-expert) has written nothing yet.",
        "promoted after repair interpolate",
        "says 62 % of wrong claims too",
        "1,048,320",
        "2\u00a0min 52\u00a0s",
        "B worse",
        "overrides",
    ):
        assert expected in page.text, expected
    assert write_run_pair(roots, tmp_path / "again.html").read_bytes() == (tmp_path / "runs.html").read_bytes()


def test_metrics_and_stages_are_aligned_and_the_last_policies_are_paired(tmp_path: Path) -> None:
    """100 pairs, 20 better in B and none worse: 20 points, the interval well above 0."""
    a = write_table(tmp_path / "a.jsonl", [1.0] * 50 + [0.0] * 50)
    b = write_table(tmp_path / "b.jsonl", [1.0] * 70 + [0.0] * 30)
    first = files_of(
        {"stages": [{"name": "sft"}], "metrics": [measure("base", 0.1), measure("sft", 0.5)]}, {"sft": {"t": a}}
    )
    second = files_of(
        {
            "stages": [{"name": "warm"}, {"name": "sft"}, {"name": "rl"}],
            "metrics": [
                measure("base", 0.1), measure("warm", 0.2), measure("rl", 0.7), {**measure("rl", 1.0), "task": "u"},
            ],
        },
        {"rl": {"t": b}},
    )  # fmt: skip
    pair = build_run_pair(first, second)
    assert pair.headings == ["base", "warm", "rl", "sft"]
    shared, alone = pair.objectives
    assert [[cell.value if cell else "" for cell in cells] for _, _, cells in shared.sides] == [
        ["10.0\u00a0%", "", "", "50.0\u00a0%"], ["10.0\u00a0%", "20.0\u00a0%", "70.0\u00a0%", ""],
    ]  # fmt: skip
    assert shared.change is not None
    assert (shared.change.amount, shared.word, shared.change.evidence) == (
        "+20.0", "B better", "100 pairs, 20 higher, 0 lower",
    )  # fmt: skip
    assert [side for side, _, _ in alone.sides] == ["B"] and alone.change is None


def with_recipe(**resolved: Any) -> RunFiles:
    return files_of({}, None, **resolved)


def test_recipes_differ_by_leaf_and_a_stage_that_one_lacks_is_told_of_once() -> None:
    sft = {"name": "sft", "type": "sft", "learning_rate": 1e-3, "data": [{"source": "a"}], "gate": None}
    a = with_recipe(seed=1, stages=[sft])
    b = with_recipe(
        seed=1,
        stages=[{**sft, "learning_rate": 2e-3, "data": [{"source": "b"}]}, {"name": "rl", "type": "grpo", "k": 8}],
    )
    found = [(one.key, one.a, one.b) for one in list_differences(a, b)]
    assert found == [
        ("stages.sft.learning_rate", "0.001", "0.002"),
        ("stages.sft.data.1.source", "a", "b"),
        ("stages.rl", "–", "(grpo)"),
    ]
    assert list_differences(a, a) == []


def make_poison(shift: int) -> Callable[[str], str]:
    """Return a function that gives each text another payload, the same text always the same one."""
    given = itertools.cycle(PAYLOADS[shift * 10 :] + PAYLOADS[: shift * 10])
    chosen: dict[str, str] = {}

    def poison(text: str) -> str:
        return chosen.setdefault(text, next(given) + f" {len(chosen)}")

    return poison


@pytest.mark.parametrize("shift", range(3))
def test_thirty_script_injections_in_both_runs_stay_text(tmp_path: Path, shift: int) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for root in (first, second):
        poison = make_poison(shift)
        write_run(root, text=poison)
        resolved = {poison(f"key {root.name}"): poison(f"value {root.name}"), "stages": [{"name": poison(root.name)}]}
        (root / "recipe.resolved.json").write_text(json.dumps(resolved))
    page = PageReader(render_run_pair(load_run(first), load_run(second)), has_script=False)
    assert page.faults == []
    assert page.text.count("alert(1)") > 15


@pytest.mark.invariants
def test_values_of_the_wrong_type_anywhere_do_no_harm(tmp_path: Path) -> None:
    root = write_run(tmp_path / "run")
    whole = json.loads((root / "run.json").read_text())
    sound = load_run(root)
    for key in whole:
        for value in (None, 7, "x", [], {}, [[{}]], {"a": [None]}, True):
            (root / "run.json").write_text(json.dumps({**whole, key: value}))
            page = PageReader(render_run_pair(sound, load_run(root)), has_script=False)
            assert page.faults == []


def test_a_folder_that_is_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        write_run_pair((write_run(tmp_path / "run"), tmp_path / "nowhere"), tmp_path / "page.html")
