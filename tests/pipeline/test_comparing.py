"""Suites, evaluation outside of runs, and comparisons: what is paired, what is refused, what is a typed outcome."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.core.errors import DataError, LockedError, PosttrainError, RecipeError, StorageError
from posttrain.core.progress import SilentProgress
from posttrain.core.run_folder import FolderLock
from posttrain.pipeline.comparing import compare_models, compare_sides
from posttrain.pipeline.evaluating import EvaluationChoice, evaluate_model
from posttrain.pipeline.measured_sides import Side, find_side
from posttrain.pipeline.plan import hash_base
from posttrain.pipeline.suites import list_suites, read_suite
from tests.pipeline.tiny_runs import Workshop, make_rows, sft, task

PROGRESS = SilentProgress()


def never() -> bool:
    return False


def write_suite(folder: Path, **changes: Any) -> str:
    values = {"schema": 1, "name": "mine", "evaluate": [task(), task(name="more", data={"source": "rows.jsonl"})]}
    path = folder / "mine.yaml"
    path.write_text(json.dumps({**values, **changes}))
    return str(path)


def choose(workshop: Workshop, **changes: Any) -> EvaluationChoice:
    suite = read_suite(changes.pop("suite", write_suite(workshop.folder)))
    return EvaluationChoice(suite, **{"folder": workshop.folder, "dtype": "float32", "template": "plain", **changes})


def compare(*names: str, choice: EvaluationChoice | None = None, **named: Any) -> Any:
    return compare_models((names[0], names[1]), choice, PROGRESS, never, **named)


@pytest.fixture
def trained(workshop: Workshop) -> Any:
    """A run whose stage learned the answers."""
    make_rows(workshop.folder / "held_out.jsonl", 40, start=100)
    make_rows(workshop.folder / "rows.jsonl", 40)
    stage = sft(steps=40, batch_size=20)
    return workshop.run(stage, evaluate=[task(parts=["stopped"])])


def test_the_built_in_suites_can_be_read_and_name_what_their_scorers_know() -> None:
    assert list_suites() == ["lab"]
    suite = read_suite("lab")
    assert (suite.name, suite.version, len(suite.tasks)) == ("lab", 1, 9)
    assert {task.data.split for task in suite.tasks} == {"held_out", "perturbed"}


def test_a_model_is_measured_once_and_the_answers_lie_below_its_hash(workshop: Workshop) -> None:
    base = str(workshop.folder / "base")
    first = evaluate_model(base, choose(workshop), PROGRESS, never)
    assert set(first.measured) == {"held_out", "more"}
    assert first.folder == workshop.folder / "evaluations" / first.policy_hash
    files = {path.name: path.read_bytes() for path in first.folder.glob("*.jsonl")}
    again = evaluate_model(base, choose(workshop), PROGRESS, never)
    assert again.to_json() == first.to_json()
    assert {path.name: path.read_bytes() for path in first.folder.glob("*.jsonl")} == files
    some = evaluate_model(base, choose(workshop, tasks=["more"], rows=3), PROGRESS, never)
    assert [one.metrics[0]["n"] for one in some.measured.values()] == [3]
    assert some.measured["more"].hash == first.measured["more"].hash
    kept = {path.name: sorted(path.read_bytes().splitlines()) for path in first.folder.glob("*.jsonl")}
    assert kept == {name: sorted(content.splitlines()) for name, content in files.items()}


def test_what_a_run_measured_is_found_where_its_folder_is_named(workshop: Workshop, trained: Any) -> None:
    root = trained.folder.root
    files = {path: path.stat().st_size for path in root.glob("evaluations/*/*.jsonl")}
    for model, template in ((trained.artifact(), "auto"), (workshop.folder / "base", "plain")):
        choice = choose(workshop, folder=root, template=template, dtype="auto", tasks=["held_out"])
        evaluated = evaluate_model(str(model), choice, PROGRESS, never)
        assert evaluated.folder.parent == root / "evaluations"
    assert {path: path.stat().st_size for path in root.glob("evaluations/*/*.jsonl")} == files


def test_a_second_measurement_of_a_policy_in_one_folder_is_refused_and_so_is_one_beside_a_run(
    workshop: Workshop,
) -> None:
    base = str(workshop.folder / "base")
    policy = hash_base(workshop.folder / "base")
    for path in (workshop.folder / "evaluations" / f"{policy}.lock", workshop.folder / "lock"):
        with FolderLock(path), pytest.raises(LockedError, match="another process") as caught:
            evaluate_model(base, choose(workshop), PROGRESS, never)
        assert caught.value.place == str(path) and "--out" in caught.value.cure
    assert not list((workshop.folder / "evaluations").rglob("*.jsonl"))
    assert evaluate_model(base, choose(workshop, tasks=["more"]), PROGRESS, never).policy_hash == policy


def test_a_part_of_the_rows_is_compared_where_one_side_answered_all_of_them(workshop: Workshop, trained: Any) -> None:
    names = (str(workshop.folder / "base"), str(trained.artifact()))
    evaluate_model(names[0], choose(workshop, tasks=["more"]), PROGRESS, never)
    found = compare(*names, choice=choose(workshop, tasks=["more"], rows=12))
    stop = next(metric for metric in found.metrics if metric.name == "stop_rate")
    assert (stop.num_items, stop.reason) == (12, "")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"evaluate": []}, "no task to measure"),
        ({"evaluate": None}, "no task to measure"),
        ({"evaluate": [task(), task()]}, "two tasks are named"),
        ({"evaluate": [task(scorer="exct_match")]}, "exact_match"),
        ({"evaluate": [{**task(), "type": "choise"}]}, "generation, choice, perplexity"),
        ({"evaluate": [task(max_new_token=4)]}, "max_new_tokens"),
        ({"evalute": []}, "evaluate"),
        ({"schema": 2}, "schema: 1"),
        ({"evaluate": [task(data={"source": "../../outside.jsonl"})]}, "roots"),
    ],
)
def test_a_suite_that_cannot_be_used_is_refused_with_its_place(workshop: Workshop, changes: Any, said: str) -> None:
    path = write_suite(workshop.folder, **changes)
    with pytest.raises(RecipeError) as caught:
        read_suite(path)
    assert said in f"{caught.value.found} {caught.value.expected} {caught.value.cure}"
    assert "mine.yaml" in caught.value.place or "--" in caught.value.place


def test_unknown_suites_and_tasks_are_named_with_the_nearest(workshop: Workshop) -> None:
    with pytest.raises(RecipeError, match="no suite is called 'lap'") as caught:
        read_suite("lap")
    assert "lab" in str(caught.value.cure)
    with pytest.raises(RecipeError, match="has no task 'mor'"):
        evaluate_model(str(workshop.folder / "base"), choose(workshop, tasks=["mor"]), PROGRESS, never)


def test_stages_of_a_run_are_compared_by_what_the_run_measured(workshop: Workshop, trained: Any) -> None:
    root = trained.folder.root
    found = compare(f"{root}:base", str(root))
    assert (found.a.name, found.b.name) == (f"{root}:base", f"{root}:sft")
    assert found.b.hash == trained.hashes[0]
    named = {metric.name: metric for metric in found.metrics}
    assert named["exact_match"].verdict in ("better", "unmeasured")
    stop = named["stop_rate"]
    assert (stop.num_items, stop.num_better + stop.num_worse + stop.num_same) == (40, 40)
    assert stop.verdict == "better" and stop.adjusted_verdict == "better" and stop.p_value < 1e-6
    assert stop.low <= stop.difference <= stop.high
    [flips] = found.flips
    assert flips.num_gained > 0 and len(flips.gained) == min(3, flips.num_gained)
    assert all(flip.score_b > flip.score_a for flip in flips.gained)
    same = compare(str(root), f"{root}/artifacts/{trained.hashes[0]}")
    assert {metric.verdict for metric in same.metrics} == {"undecided"}
    assert {metric.difference for metric in same.metrics} == {0.0}


def test_an_artifact_and_its_base_are_measured_and_compared_on_a_suite(workshop: Workshop, trained: Any) -> None:
    names = (str(workshop.folder / "base"), str(trained.artifact()))
    found = compare(*names, choice=choose(workshop), num_flips=1)
    assert {metric.task for metric in found.metrics} == {"held_out", "more"}
    assert all(len(flips.gained) <= 1 for flips in found.flips)
    assert json.loads(json.dumps(found.to_json()))["metrics"]
    folders = [workshop.folder / "evaluations" / one.hash for one in (found.a, found.b)]
    again = compare(*map(str, folders))
    assert [metric.p_value for metric in again.metrics] == [metric.p_value for metric in found.metrics]


def test_two_chat_templates_are_refused_with_both_hashes_and_the_cure(workshop: Workshop, trained: Any) -> None:
    (workshop.folder / "own.jinja").write_text(
        "{% for m in messages %}{{ m.role }}> {{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}"
        "\n{% endfor %}{% if add_generation_prompt %}assistant> {% endif %}"
    )
    sides = []
    for model, template in (
        (workshop.folder / "base", "plain"),
        (trained.artifact(), str(workshop.folder / "own.jinja")),
    ):
        sides.append(evaluate_model(str(model), choose(workshop, template=template), PROGRESS, never))
    with pytest.raises(DataError, match="different chat templates") as caught:
        compare(*(str(side.folder) for side in sides))
    assert "--template" in str(caught.value.cure)


def read_sides(workshop: Workshop, trained: Any) -> tuple[Side, Side]:
    root = trained.folder.root
    return find_side(f"{root}:base"), find_side(str(root))


def test_where_no_answer_can_be_read_there_is_a_verdict_and_no_number(workshop: Workshop, trained: Any) -> None:
    a, b = read_sides(workshop, trained)
    path = a.folder / f"{a.cards['held_out']['file']}.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    unread = {"status": "unparsed", "value": 0.0, "why": "", "fault": "policy", "parts": {"stopped": 1.0}}
    path.write_text("".join(json.dumps({**line, "outcome": unread}) + "\n" for line in lines))
    metric = next(metric for metric in compare_sides(a, b).metrics if metric.name == "exact_match")
    assert (metric.verdict, metric.difference, metric.p_value, metric.a.value) == ("unmeasured", None, None, None)
    assert "could be read" in metric.reason


@pytest.mark.parametrize("place", ["middle", "end"])
def test_a_torn_item_file_is_refused_or_its_last_item_is_missing_and_said_so(
    workshop: Workshop, trained: Any, place: str
) -> None:
    a, b = read_sides(workshop, trained)
    path = b.folder / f"{b.cards['held_out']['file']}.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    index = 20 if place == "middle" else len(lines) - 1
    lines[index] = lines[index][:30] + ("\n" if place == "middle" else "")
    path.write_text("".join(lines))
    if place == "middle":
        with pytest.raises(StorageError) as caught:
            compare_sides(a, b)
        assert f"{path.name}:21" in caught.value.place
        return
    assert {metric.verdict for metric in compare_sides(a, b).metrics} == {"unmeasured"}
    assert any("missing after" in metric.reason for metric in compare_sides(a, b).metrics)


def test_tasks_of_other_rows_are_unmeasured_with_the_reason(workshop: Workshop, trained: Any) -> None:
    a, b = read_sides(workshop, trained)
    path = b.folder / f"{b.cards['held_out']['file']}.jsonl"
    path.write_text(path.read_text().replace(b.cards["held_out"]["task_hash"], "f" * 32))
    found = compare_sides(a, b)
    assert {metric.verdict for metric in found.metrics} == {"unmeasured"}
    assert all(metric.difference is None for metric in found.metrics)


def test_names_that_stand_for_nothing_measured_say_what_would(workshop: Workshop, trained: Any) -> None:
    root = trained.folder.root
    for name, said in (
        (str(workshop.folder / "base"), "--suite"),
        (f"{root}:stf", "sft"),
        (str(root / "artifacts" / ("0" * 32)), "posttrain eval"),
        ("nowhere", "--suite"),
    ):
        with pytest.raises(RecipeError) as caught:
            find_side(name)
        assert said in f"{caught.value.expected} {caught.value.cure}", name


def test_sides_without_a_task_in_common_are_refused(workshop: Workshop, trained: Any) -> None:
    a, b = read_sides(workshop, trained)
    with pytest.raises(DataError, match="no task in common"):
        compare_sides(a, dataclasses.replace(b, cards={"other": b.cards["held_out"]}))


def test_a_card_of_something_else_is_refused(workshop: Workshop, trained: Any) -> None:
    _, b = read_sides(workshop, trained)
    (b.folder / "strange.json").write_text("[]")
    with pytest.raises(PosttrainError, match="not the card"):
        find_side(str(trained.folder.root))
