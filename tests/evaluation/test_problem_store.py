"""Problems and items that do not lie in memory: what is read is what was put in, and files keep their first lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from posttrain.core.errors import DataError
from posttrain.core.hashing import hash_json
from posttrain.core.records import ItemResult, Outcome, Problem
from posttrain.evaluation.item_columns import ItemColumns
from posttrain.evaluation.items import append_items, drop_texts, keep_items, read_items
from posttrain.evaluation.problem_store import ProblemView, StoredProblems, list_ids
from posttrain.evaluation.runner import choose_problems
from posttrain.evaluation.task import GenerationTask, hash_task


def make(count: int) -> list[Problem]:
    return [
        Problem(f"p:{n}", [{"role": "user", "content": f"é {n}"}], {"answer": n, "list": [n, None]}, cluster_id=f"c{n}")
        for n in range(count)
    ]


def test_stored_problems_are_those_that_were_given() -> None:
    given = make(7)
    stored = StoredProblems(iter(given))
    assert list(stored) == given and stored[2:5] == given[2:5]
    assert (stored[-1], stored[0]) == (given[-1], given[0])
    assert list_ids(stored) == [problem.problem_id for problem in given]
    for wrong in (7, -8):
        with pytest.raises(IndexError):
            stored[wrong]


def test_a_view_is_of_some_problems_as_they_are_shown() -> None:
    stored = StoredProblems(make(6))
    view = ProblemView(ProblemView(stored, [1, 3, 5]), [2, 0], lambda problem: Problem(problem.problem_id, []))
    assert [problem.problem_id for problem in view] == list(list_ids(view)) == ["p:5", "p:1"]
    assert all(not problem.messages for problem in view)


def test_the_hash_of_a_task_is_that_of_all_its_contents_at_once() -> None:
    task, problems = GenerationTask(name="t", data={"source": "x"}), make(3)
    settings = {key: value for key, value in task.identity().items() if key not in task.BESIDE}
    contents = [[p.problem_id, p.messages, p.tools, p.columns, p.cluster_id, p.reply] for p in problems]
    assert hash_task(task, StoredProblems(problems), "m") == hash_json([settings, contents, "m"])
    assert hash_task(task, [], "m") == hash_json([settings, [], "m"])


def test_a_row_with_a_number_that_is_not_finite_is_named() -> None:
    task, problems = GenerationTask(name="t", data={"source": "x"}), make(3)
    problems[1].columns["list"] = [float("inf")]
    with pytest.raises(DataError, match="not finite") as refused:
        hash_task(task, problems, "m")
    assert refused.value.place == "p:1"


def test_a_smaller_choice_is_part_of_every_larger_one_and_in_order() -> None:
    stored = StoredProblems(make(50))
    few, more = (list(list_ids(choose_problems("t", "h", stored, first).problems)) for first in (5, 20))
    assert set(few) < set(more) and len(few) == 5
    assert more == [name for name in list_ids(stored) if name in more]


def item(name: str, sample: int = 0, value: float = 1.0, **changes: object) -> ItemResult:
    outcome = Outcome("scored", value, parts={"a": value / 2}, answer="x" if sample else None)
    return ItemResult(name, "c", "t", sample, outcome, "p", **{"text": f"{name} {sample}", **changes})  # type: ignore[arg-type]  # plain values


def test_columns_give_back_items_without_their_texts() -> None:
    columns = ItemColumns("t", "p", ["a", "b"], 2)
    given = [item("a"), item("a", 1, 0.25), item("b")]
    fault = ItemResult("b", "", "t", 1, Outcome("errored", 0.0, "judge is away", "harness"), "p")
    for place, one in enumerate([*given, fault]):
        columns.put(place, drop_texts(one))
    assert list(columns) == [*map(drop_texts, given), fault]
    assert columns.count_part("a") == 3
    columns.remove(1)
    assert [one.sample_index for one in columns.present()] == [0, 0, 1] and columns.count_part("a") == 2
    with pytest.raises(KeyError):
        columns[1]


def test_of_a_file_the_first_line_of_each_rank_is_kept_in_order(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    append_items(path, [item("b"), item("a"), item("b", value=0.5), item("z")])
    keep_items(path, lambda one: {"a": 0, "b": 1}.get(one.item_id))
    assert [(one.item_id, one.outcome.value) for one in read_items(path)] == [("a", 1.0), ("b", 1.0)]
    before = path.stat().st_mtime_ns
    keep_items(path, lambda one: {"a": 3, "b": 9}.get(one.item_id))
    assert path.stat().st_mtime_ns == before
