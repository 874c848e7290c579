"""Decontamination in recipes: what is left out, what names it, and that the lab stays whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.core.errors import RefusedError
from posttrain.models.manifest import load_manifest
from posttrain.pipeline import decontaminating
from posttrain.pipeline.decontaminating import OFF
from posttrain.pipeline.plan import build_plan
from posttrain.pipeline.recipe import read_recipe
from posttrain.pipeline.wiring import find_contaminated_rows
from tests.contracts.sources import REPOSITORY
from tests.pipeline.tiny_runs import Workshop, recipe_values, sft, task

ASKED = "how many red hens does the baker keep"


def write(workshop: Workshop, name: str, prompts: list[str]) -> None:
    rows = [{"prompt": prompt, "completion": "ant", "answer": "ant"} for prompt in prompts]
    (workshop.folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def mixed(workshop: Workshop) -> Workshop:
    """A workshop whose training rows hold one of two items, in one row of twelve."""
    write(workshop, "held_out.jsonl", [ASKED, "which fox sleeps below the old bridge"])
    write(workshop, "rows.jsonl", [*(f"elk {number}" for number in range(11)), f"Say: {ASKED.upper()}?"])
    return workshop


def run(workshop: Workshop, into: str = "run", override: tuple[str, ...] = (), **values: Any) -> Any:
    return workshop.run(sft(steps=1), evaluate=[task()], into=into, override=list(override), **values)


def test_a_row_that_holds_an_item_is_left_out_counted_and_shown(mixed: Workshop) -> None:
    done = run(mixed)
    ledger = done.record["stages"][0]["ledger"]
    assert (ledger["rows_in"], ledger["rows_trained"]) == (12, 11)
    entry = ledger["dropped"]["contaminated"]
    assert (entry["rows"], entry["kind"], entry["listed"][0]["row_id"]) == (1, "contaminated", "rows.jsonl:12")
    assert "held_out: held_out.jsonl:1" in entry["listed"][0]["detail"] and "red hens" in entry["listed"][0]["detail"]
    assert ledger["decontamination"] == "searched for the rows of held_out"
    (finding,) = (f for f in done.record["preflight"] if f["name"] == "contamination")
    assert finding["status"] == "passed" and finding["figures"]["rows"] == 1
    assert load_manifest(done.artifact()).ledger["decontamination"] == ledger["decontamination"]
    page = (done.folder.root / "report.html").read_text()
    assert "dropped: contaminated" in page and "searched for the rows of held_out" in page
    assert run(mixed).statuses == ["cached"]


def test_without_it_the_row_is_trained_on_and_the_run_says_so(mixed: Workshop) -> None:
    kept, done = run(mixed), run(mixed, into="off", decontaminate=False)
    ledger = done.record["stages"][0]["ledger"]
    assert ledger["rows_trained"] == 12 and ledger["decontamination"] == OFF
    assert load_manifest(done.artifact()).ledger["decontamination"] == OFF
    assert OFF in (done.folder.root / "report.html").read_text()
    assert done.hashes != kept.hashes


def test_a_tenth_of_the_rows_is_refused_and_can_be_let_through(mixed: Workshop) -> None:
    write(mixed, "rows.jsonl", [*(f"elk {number}" for number in range(8)), f"{ASKED}?"])
    with pytest.raises(RefusedError, match=r"1 of 9 rows \(11\.1%\).*rows\.jsonl:9") as refused:
        run(mixed)
    assert "max_fraction" in refused.value.expected and "--override sft:contamination" in refused.value.cure
    done = run(mixed, override=("sft:contamination",))
    assert done.record["stages"][0]["ledger"]["rows_trained"] == 8
    assert load_manifest(done.artifact()).overrides == ["contamination"]
    assert run(mixed, into="wide", decontaminate={"max_fraction": 0.2}).hashes == done.hashes


def test_where_every_row_holds_an_item_no_override_helps(mixed: Workshop) -> None:
    write(mixed, "rows.jsonl", [ASKED, f"{ASKED}?"])
    with pytest.raises(RefusedError, match="no row is left") as refused:
        run(mixed, override=("contamination",))
    assert refused.value.place == "sft: contamination"


def test_a_task_that_occurs_in_no_row_leaves_the_stage_its_name(mixed: Workshop) -> None:
    def find_keys(**values: Any) -> list[str | None]:
        return [stage.key for stage in build_plan(mixed.read(**values)).stages]

    write(mixed, "clean.jsonl", ["which owl counts the stars above the silent mill"])
    one, two = task(), task(name="more", data={"source": "clean.jsonl"})
    assert find_keys(evaluate=[one]) == find_keys(evaluate=[one, two])
    assert find_keys(evaluate=[two]) != find_keys(evaluate=[one])
    assert find_keys(evaluate=[one], decontaminate={"kinds": ["key"]}) == find_keys(evaluate=[two])
    assert find_keys(evaluate=[one], decontaminate=False) != find_keys(evaluate=[two])


def test_a_second_search_reads_no_row(mixed: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = mixed.read(evaluate=[task()])
    sources = recipe.stages[0].config.data  # type: ignore[union-attr]
    found = find_contaminated_rows(recipe, sources)
    assert [list(rows) for rows in found] == [["rows.jsonl:12"]]

    def refuse(*arguments: Any, **named: Any) -> Any:
        raise AssertionError("rows are read again")

    with monkeypatch.context() as patched:
        patched.setattr(decontaminating, "iterate_examples", refuse)
        assert find_contaminated_rows(recipe, sources) == found
    (known,) = (recipe.folder / "cache" / "contamination").iterdir()
    known.write_text("{torn")
    assert find_contaminated_rows(recipe, sources) == found


def test_a_benchmark_copied_word_for_word_is_found_however_it_is_framed(workshop: Workshop) -> None:
    """Bare questions with the text of the right option; the task asks below a heading, with options and letters."""
    themes = ("copper", "ivory", "marble", "willow", "amber", "granite")
    rows = [
        {"subject": "astronomy", "question": f"Which {theme} body circles nearest to the seventh {theme} beacon?",
         "choices": [f"the {theme} moon", f"a {theme} ring", f"one {theme} belt", f"no {theme} disc"], "answer": "B"}
        for theme in themes
    ]  # fmt: skip
    solved = [(row["question"], row["choices"][1]) for row in rows]
    others = [(f"elk {number}", "ant") for number in range(60)]
    mmlu = workshop.folder / "mmlu.jsonl"
    mmlu.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = [{"prompt": asked, "completion": said} for asked, said in [*solved, *others]]
    (workshop.folder / "rows.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    recipe = workshop.read(evaluate=[{"name": "m", "benchmark": "mmlu", "data": {"source": "mmlu.jsonl"}}])
    (found,) = find_contaminated_rows(recipe, recipe.stages[0].config.data)  # type: ignore[union-attr]
    assert sorted(found) == [f"rows.jsonl:{number}" for number in range(1, 7)]


def test_a_task_of_another_type_is_searched_for_anew(workshop: Workshop) -> None:
    """The same rows, once answered by a letter and once by a text: other items, another search."""
    asked = "which grey owl sits there"
    row = {"prompt": asked, "choices": ["the tall old owl", "the small new owl"], "answer": "A"}
    (workshop.folder / "held_out.jsonl").write_text(
        "".join(json.dumps({**row, "choices": [f"{c} {n}" for c in row["choices"]]}) + "\n" for n in range(3))
    )
    pairs = [(asked, "the tall old owl 1"), *((f"elk {n}", "ant") for n in range(20))]
    (workshop.folder / "rows.jsonl").write_text(
        "".join(json.dumps({"prompt": p, "completion": c}) + "\n" for p, c in pairs)
    )

    def find(**kind: Any) -> list[str]:
        recipe = workshop.read(evaluate=[{"name": "t", "data": {"source": "held_out.jsonl"}, **kind}])
        (found,) = find_contaminated_rows(recipe, recipe.stages[0].config.data)  # type: ignore[union-attr]
        return [detail for detail in found.values() if "answered" in detail] and list(found)

    assert find() == []
    assert find(type="choice") == ["rows.jsonl:1"]


def make_lab_recipe(folder: Path, data: dict[str, Any], **values: Any) -> Any:
    evaluate = [
        {"name": name, "data": {"source": f"lab:{name}", "split": "held_out", "rows": 100}, "max_new_tokens": 8}
        for name in ("questions", "instructions")
    ]
    recipe = recipe_values(sft(data=[data]), evaluate=evaluate, **values)
    path = folder / "lab.yaml"
    path.write_text(json.dumps(recipe))
    return read_recipe(path, folder=folder / "run")


def test_held_out_rows_of_the_lab_are_found_where_they_are_trained_on(tmp_path: Path) -> None:
    recipe = make_lab_recipe(tmp_path, {"source": "lab:questions", "split": "held_out", "rows": 50})
    (found,) = find_contaminated_rows(recipe, recipe.stages[0].config.data)
    assert len(found) == 50


@pytest.mark.parametrize("name", ["demo", "lab_sft"])
def test_no_training_row_of_a_shipped_recipe_is_left_out(name: str, tmp_path: Path) -> None:
    recipe = read_recipe(REPOSITORY / "recipes" / f"{name}.yaml", folder=tmp_path / "run")
    for entry in recipe.stages:
        assert find_contaminated_rows(recipe, entry.config.data) == [{}]  # type: ignore[union-attr]
