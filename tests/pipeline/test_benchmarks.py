"""Published benchmarks as tasks: their rows, their settings, their files, and prompts of plain text on a tiny model."""

from __future__ import annotations

import datetime
import gzip
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from posttrain.core.errors import DataError, RecipeError
from posttrain.data.sources import DataSource
from posttrain.evaluation.benchmark import Benchmark
from posttrain.evaluation.suites import registry
from posttrain.evaluation.task import ChoiceTask, EvaluationTask, GenerationTask, hash_task
from posttrain.pipeline.benchmark_files import list_parts
from posttrain.pipeline.roots import declare_roots
from posttrain.pipeline.suites import list_listed, read_suites
from posttrain.pipeline.task_rows import read_problems
from tests.pipeline.test_measure import Bench, bench, write
from tests.pipeline.tiny_runs import Workshop

__all__ = ["bench"]

TASKS: TypeAdapter[Any] = TypeAdapter(EvaluationTask)


def read(folder: Path, name: str, benchmark: str = "nested", **source: Any) -> Any:
    roots = declare_roots(folder / "recipe.yaml")
    return read_problems(roots, DataSource(source=name, **source), benchmark=benchmark)


@pytest.fixture(autouse=True)
def nested(monkeypatch: Any) -> None:
    """A benchmark of three parts whose rows hold several, with their answers in a file beside them."""
    settings = {"max_new_tokens": 7, "scorer": "short_answer"}

    def read_row(row: Any, file: Any) -> Any:
        keys = {one["id"]: one["answer"] for one in file.read_beside(f"keys/{file.stem}.jsonl")}
        for question in row["questions"]:
            yield {"prompt": question["text"], "answer": keys[question["id"]], "part": file.stem}

    monkeypatch.setitem(
        registry.BENCHMARKS,
        "nested",
        Benchmark(
            "nested", 3, "questions in lists", "nobody", "CC0", settings, read_row,
            {"one": ("n/one.json",), "two": ("n/two.json", "two.json"), "far": ()},
            {"far": ("hub:nobody/nested", "test")},
        ),
    )  # fmt: skip


def write_nested(folder: Path) -> None:
    (folder / "keys").mkdir(parents=True)
    questions = [{"id": number, "text": f"what is {number}?"} for number in range(4)]
    rows = [{"questions": questions[:3]}, {"questions": questions[3:]}]
    with gzip.open(folder / "two.json.gz", "wt") as file:
        json.dump(rows, file)
    write(folder / "keys" / "two.jsonl", [{"id": number, "answer": f"n{number}"} for number in range(4)])


def test_a_row_may_give_several_whose_ids_say_which(tmp_path: Path) -> None:
    write_nested(tmp_path)
    problems = read(tmp_path, "two.json.gz")
    assert [problem.problem_id for problem in problems] == [
        "nested:1#1", "nested:1#2", "nested:1#3", "nested:2"
    ]  # fmt: skip
    assert [problem.columns["answer"] for problem in problems] == ["n0", "n1", "n2", "n3"]
    assert {problem.columns["part"] for problem in problems} == {"two"}
    assert [problem.problem_id for problem in read(tmp_path, "two.json.gz", skip=1, rows=2)] == [
        "nested:1#2", "nested:1#3"
    ]  # fmt: skip


@pytest.mark.parametrize("row", [{"other": 1}, {"questions": 3}, {"questions": [{"id": 9, "text": "?"}]}])
def test_a_row_that_is_not_as_published_is_a_bad_row_with_its_place(tmp_path: Path, row: dict[str, Any]) -> None:
    write_nested(tmp_path)
    (tmp_path / "two.json.gz").unlink()
    good = {"questions": [{"id": 0, "text": "?"}]}
    write(tmp_path / "two.jsonl", [good, row, good])
    with pytest.raises(DataError, match="not a row of nested") as caught:
        read(tmp_path, "two.jsonl")
    assert caught.value.place.endswith("two.jsonl:2")
    assert len(read(tmp_path, "two.jsonl", max_bad_fraction=0.5)) == 2


def test_files_beside_the_rows_stay_below_the_roots(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    write_nested(tmp_path / "in" / "n")
    (tmp_path / "in" / "n" / "keys" / "two.jsonl").rename(tmp_path / "keys.jsonl")
    (tmp_path / "in" / "n" / "keys" / "two.jsonl").symlink_to(tmp_path / "keys.jsonl")
    with pytest.raises(DataError, match="outside the declared roots"):
        read(tmp_path / "in", "n/two.json.gz")


def test_a_task_has_the_settings_of_its_benchmark_where_it_says_nothing() -> None:
    task = TASKS.validate_python({"name": "t", "benchmark": "nested", "data": {"source": "x.json"}})
    assert (task.benchmark, task.max_new_tokens, task.scorer) == ("nested@3", 7, "short_answer")
    own = TASKS.validate_python({"name": "t", "benchmark": "nested@3", "max_new_tokens": 9, "data": {"source": "x"}})
    assert own.max_new_tokens == 9
    other = TASKS.validate_python({"name": "t", "benchmark": "nested", "type": "perplexity", "data": {"source": "x"}})
    assert other.type == "perplexity"
    for name, said in (("nestet", "did you mean 'nested'"), ("nested@2", "version")):
        with pytest.raises(ValidationError, match=said):
            TASKS.validate_python({"name": "t", "benchmark": name, "data": {"source": "x"}})


def test_name_and_version_are_in_the_tasks_hash_and_keys_that_are_not_given_are_not() -> None:
    plain = GenerationTask(name="t", data={"source": "x"})
    named = plain.model_copy(update={"benchmark": "nested@3"})
    raised = plain.model_copy(update={"benchmark": "nested@4"})
    assert len({hash_task(one, []) for one in (plain, named, raised)}) == 3
    assert not {"benchmark", "form", "shots", "shots_from", "shots_by", "shots_seed"} & plain.identity().keys()
    assert "metric" not in ChoiceTask(name="t", type="choice", data={"source": "x"}).identity()


def test_parts_are_tasks_of_the_suite_and_their_files_are_looked_for(tmp_path: Path) -> None:
    write_nested(tmp_path / "n")
    with pytest.raises(RecipeError, match="no file of 'nested-one'") as caught:
        read_suites(["nested"], data=tmp_path)
    assert "n/one.json" in caught.value.expected and "--data" in caught.value.cure
    suite = read_suites(["nested,lab"], data=tmp_path, only=["nested-two", "tools"])
    assert [task.name for task in suite.choose(["nested-two", "tools"])] == ["tools", "nested-two"]
    assert [task.data.source for task in suite.tasks if task.benchmark] == [str(tmp_path / "n" / "two.json.gz")]
    with pytest.raises(RecipeError, match="no task 'nested-to'") as caught:
        read_suites(["nested"], data=tmp_path, only=["nested-to"])
    assert "nested-two" in caught.value.cure


def test_without_a_folder_rows_come_from_the_hub_or_are_asked_for(monkeypatch: Any) -> None:
    monkeypatch.delenv("POSTTRAIN_DATA", raising=False)
    [task] = read_suites(["nested"], only=["nested-far"]).tasks
    assert (task.data.source, task.data.split) == ("hub:nobody/nested", "test")
    with pytest.raises(RecipeError, match="no folder to look for 'nested-one'") as caught:
        read_suites(["nested"])
    assert "--data" in caught.value.cure
    with pytest.raises(RecipeError, match="nowhere is no folder"):
        read_suites(["nested"], data=Path("nowhere"))


def test_the_part_test_bears_the_benchmarks_name_and_others_are_measured_when_named() -> None:
    several = Benchmark("b", 1, "", "", "", {}, lambda row, file: [], {"test": ("t",), "dev": ("d",)})
    assert [(part.task_name, part.is_default) for part in list_parts(several)] == [("b", True), ("b-dev", False)]


def test_suites_that_cannot_be_measured_at_once_are_refused(tmp_path: Path, workshop: Workshop) -> None:
    with pytest.raises(RecipeError, match="2 YAML files"):
        read_suites(_write_suites(tmp_path))
    with pytest.raises(RecipeError, match="two tasks are named 'questions'"):
        read_suites(["lab", "lab"])
    with pytest.raises(RecipeError, match="no suite"):
        read_suites([","])


def _write_suites(folder: Path) -> list[str]:
    paths = [folder / "a.yaml", folder / "b.yaml"]
    for path in paths:
        task = {"name": path.stem, "data": {"source": "rows.jsonl"}}
        path.write_text(json.dumps({"schema": 1, "name": path.stem, "evaluate": [task]}))
    return [str(path) for path in paths]


def test_the_list_holds_the_suites_and_every_benchmark() -> None:
    found = {one.name: one for one in list_listed()}
    assert {"lab", "gsm8k", "mmlu", "arc_easy", "nested"} <= found.keys()
    assert (found["nested"].version, found["nested"].licence) == (3, "CC0")


@pytest.mark.parametrize("prompt", ["which animal is it?", "It is: ", "Name one\n"])
def test_plain_text_is_split_where_the_prompts_own_tokens_end(workshop: Workshop, bench: Bench, prompt: str) -> None:
    """As `_encode_pair` of lm-evaluation-harness: white space before the choice is the choice's."""
    choices = ["an ant", "elephants", "a cow of the field"]
    write(workshop.folder / "rows.jsonl", [{"prompt": prompt, "choices": choices, "answer": 0}])
    task = ChoiceTask(
        name="t", type="choice", data={"source": "rows.jsonl"}, form="text", normalisation="sum", metric="mass"
    )
    [item] = bench.measurer.measure(bench.policy, task).read_items()
    tokenizer = bench.renderer.tokenizer
    bos = tokenizer.special_tokens.get(bench.renderer.format.special_tokens.get("bos_token", ""))
    start = [] if bos is None else [bos]
    context = tokenizer.encode_with_offsets(prompt.rstrip())[0]
    sums = []
    for choice in choices:
        joined = prompt + choice if prompt[-1].isspace() else f"{prompt} {choice}"
        added = tokenizer.encode_with_offsets(joined)[0][len(context) :]
        sums.append(float(bench.log_likelihoods([*start, *context, *added])[-len(added) :].sum()))
    shares = torch.tensor(sums).softmax(0)
    assert item.text == choices[sums.index(max(sums))]
    assert item.outcome.value == pytest.approx(float(shares[0]), abs=1e-4)


def test_mass_takes_likelihoods_as_they_are() -> None:
    values = {"name": "t", "type": "choice", "data": {"source": "rows.jsonl"}, "metric": "mass"}
    assert ChoiceTask(**values).normalisation == "sum"
    for normalisation in ("byte", "token"):
        with pytest.raises(ValidationError, match="no share of likelihood"):
            ChoiceTask(**values, normalisation=normalisation)


def test_a_file_under_another_name_is_the_same_task(tmp_path: Path) -> None:
    """The hash, the order of examples and the random choice of rows depend on what rows say."""
    rows = [{"question": f"what is {n} and {n}?", "answer": f"twice\n#### {2 * n}"} for n in range(30)]
    write(tmp_path / "a.jsonl", rows)
    (tmp_path / "b.json.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    (tmp_path / "b.json.gz").rename(tmp_path / "b.jsonl.gz")
    task = TASKS.validate_python({"name": "t", "benchmark": "gsm8k", "data": {"source": "a.jsonl"}})
    one, two = (list(read(tmp_path, name, "gsm8k")) for name in ("a.jsonl", "b.jsonl.gz"))
    assert one == two and one[16].problem_id == "gsm8k:17"
    assert hash_task(task, one) == hash_task(task, two)
    bare = [replace(p, columns={k: v for k, v in p.columns.items() if k != "leak_question"}) for p in one]
    assert hash_task(task, bare) == hash_task(task, one)


def test_bad_rows_that_are_let_pass_are_told_of_and_counted(workshop: Workshop, bench: Bench) -> None:
    write(workshop.folder / "rows.jsonl", [{"prompt": "?", "choices": ["ant", "cow"], "answer": 0}, {"what": 1}])
    source = {"source": "rows.jsonl", "max_bad_fraction": 0.5}
    measured = bench.measurer.measure(bench.policy, ChoiceTask(name="t", type="choice", data=source))
    assert "t: 1 of 2 rows cannot be read and are not measured" in bench.notes.notes
    cards = [json.loads(path.read_text()) for path in measured.items_path.parent.glob("*.json")]
    assert [card["rows_bad"] for card in cards] == [1]


def test_letters_of_rows_with_contexts_are_refused(workshop: Workshop, bench: Bench) -> None:
    row = {"prompt": "_ ran", "choices": ["ant", "cow"], "answer": 0, "contexts": ["an ant", "a cow"]}
    write(workshop.folder / "rows.jsonl", [{**row, "continuation": "ran"}])
    task = ChoiceTask(name="t", type="choice", data={"source": "rows.jsonl"}, options="letters")
    with pytest.raises(DataError, match="'contexts'") as caught:
        bench.measurer.measure(bench.policy, task)
    assert caught.value.place == "rows.jsonl:1"


def test_cells_without_a_form_in_json_get_one(tmp_path: Path) -> None:
    """NaN, infinity and dates in a column that nothing reads: the task has a hash, and a null cluster is none."""
    cells = [math.nan, -math.inf, 1.5, None]
    days = [datetime.date(2024, 2, 29)] * 4
    table = pa.table({"prompt": ["a?", "b?", "c?", "d?"], "answer": ["x"] * 4, "size": cells, "day": days,
                      "cluster_id": pa.array([None, "k", None, None]), "raw": [b"ab"] * 4})  # fmt: skip
    pq.write_table(table, tmp_path / "rows.parquet")
    problems = list(read_problems(declare_roots(tmp_path / "r.yaml"), DataSource(source="rows.parquet")))
    assert [problem.columns.get("size") for problem in problems] == [None, None, 1.5, None]
    assert problems[0].columns["day"] == "2024-02-29"
    assert [problem.cluster_id for problem in problems] == ["", "k", "", ""]
    assert hash_task(GenerationTask(name="t", data={"source": "rows.parquet"}), problems)


def test_a_harness_suite_without_a_task_is_refused() -> None:
    with pytest.raises(RecipeError, match="'harness:' names no task"):
        read_suites(["harness:"])


def test_mass_is_the_share_of_all_right_choices(workshop: Workshop, bench: Bench) -> None:
    row = {"prompt": "?", "choices": ["ant", "cow", "elephant"]}
    write(workshop.folder / "rows.jsonl", [{**row, "answer": right} for right in (0, 1, 2, [0, 2])])
    task = ChoiceTask(name="t", type="choice", data={"source": "rows.jsonl"}, normalisation="sum", metric="mass")
    measured = bench.measurer.measure(bench.policy, task)
    first, second, third, both = (item.outcome.value for item in measured.read_items())
    assert first + second + third == pytest.approx(1)
    assert both == pytest.approx(first + third)
    assert [figures["name"] for figures in measured.metrics] == ["mass"]
    assert measured.read_items()[-1].reference == "ant\nelephant"


def test_prompts_longer_than_the_context_are_cut_from_the_left_and_told_of(workshop: Workshop, bench: Bench) -> None:
    context = json.loads((bench.base / "config.json").read_text())["max_position_embeddings"]
    rows = [{"prompt": "the ant met " * count + "a", "choices": ["cow", "bee"], "answer": 0} for count in (1, context)]
    write(workshop.folder / "rows.jsonl", rows)
    task = ChoiceTask(name="long", type="choice", data={"source": "rows.jsonl"}, form="text", normalisation="sum")
    short, long = bench.measurer.measure(bench.policy, task).read_items()
    assert "cut_tokens" not in short.outcome.parts
    tokenizer = bench.renderer.tokenizer
    before = tokenizer.encode_with_offsets(rows[1]["prompt"])[0]
    after = [
        tokenizer.encode_with_offsets(f"{rows[1]['prompt']} {choice}")[0][len(before) :] for choice in ("cow", "bee")
    ]
    room = context - max(map(len, after))
    sums = [float(bench.log_likelihoods([*before[-room:], *ids])[-len(ids) :].sum()) for ids in after]
    assert long.text == ["cow", "bee"][sums.index(max(sums))]
    assert long.outcome.parts["cut_tokens"] >= len(before) - room
    assert any("1 of 2 prompts were longer than the model's context" in note for note in bench.notes.notes)


def test_real_files_are_read_with_unique_ids(real_data: Path, monkeypatch: Any) -> None:
    suite = read_suites(["gsm8k,arc_easy"], data=real_data)
    for task, count in zip(suite.tasks, (1319, 2376), strict=True):
        problems = read_problems(suite.roots, task.data, benchmark=task.benchmark)
        assert len(set(problems.ids)) == len(problems) == count
        assert problems[-1] == list(problems[count - 2 :])[-1]
