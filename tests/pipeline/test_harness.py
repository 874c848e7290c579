"""Tasks of lm-evaluation-harness: the harness's own numbers, items that gates read, refusals with a cure."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.harness_tasks import TASKS_FOLDER, build_task, compare, measure, measure_by_harness
from posttrain.core.errors import DataError, PosttrainError, RecipeError, RefusedError
from posttrain.core.hashing import hash_text
from posttrain.evaluation import harness
from posttrain.evaluation.harness_task import HarnessTask
from posttrain.pipeline.comparing import compare_sides
from posttrain.pipeline.measure import OpenPolicy
from posttrain.pipeline.measured_sides import read_side
from posttrain.pipeline.plan import build_plan
from posttrain.pipeline.recipe import read_recipe
from posttrain.pipeline.suites import read_suite
from tests.models.tiny_models import save_tiny
from tests.pipeline.harness_bench import add_task, find_metrics, write_tasks
from tests.pipeline.tiny_runs import Workshop, recipe_values, sft

NAMES = ("tiny_choices", "tiny_texts", "tiny_words", "tiny_answers")
NUM_DOCUMENTS = 6


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama over bytes with a chat template, whose context is 512."""
    return save_tiny(tmp_path_factory.mktemp("harness") / "model")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a task of each type."""
    write_tasks(tmp_path, NUM_DOCUMENTS)
    return tmp_path


def refuse_to_load(policy: OpenPolicy) -> Any:
    raise AssertionError("the policy is asked again")


def test_every_type_of_task_gives_the_number_of_the_harnesss_own_back_end(model: Path, folder: Path) -> None:
    """A text of 61 animals is longer than the context of 512 bytes, so that windows are cut too."""
    ours = measure(model, folder, *(build_task(name) for name in NAMES))
    by_name = {name: ours.measured[name.replace("_", "-")] for name in NAMES}
    worst = compare(by_name, measure_by_harness(model, folder, NAMES), NAMES)
    assert worst["metrics"] < 1e-4
    assert worst["loglikelihoods"] < 1e-3


@pytest.mark.invariants
def test_examples_and_a_chat_template_stand_in_the_prompt_as_the_harness_puts_them(model: Path, folder: Path) -> None:
    names = ["tiny_choices", "tiny_answers"]
    for form in ("text", "chat"):
        tasks = [build_task(name, name=f"{name}-{form}".replace("_", "-"), shots=1, form=form) for name in names]
        ours = measure(model, folder, *tasks)
        theirs = measure_by_harness(model, folder, names, num_fewshot=1, apply_chat_template=form == "chat")
        by_name = {name: ours.measured[task.name] for name, task in zip(names, tasks, strict=True)}
        worst = compare(by_name, theirs, names)
        assert worst["metrics"] < 1e-4 and worst["loglikelihoods"] < 1e-3
        first = by_name["tiny_choices"].read_items()[0].prompt[0]["content"]
        assert first == theirs["samples"]["tiny_choices"][0]["arguments"][0][0]
        assert first.count("Answer:") == 2 and ("assistant" in first) == (form == "chat")


def test_a_measured_policy_is_not_asked_again_and_an_interrupted_one_from_where_it_stopped(
    model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [build_task(name) for name in ("tiny_words", "tiny_answers")]
    first = measure(model, folder, *tasks)
    paths = {name: one.items_path for name, one in first.measured.items()}
    whole = {name: path.read_text() for name, path in paths.items()}
    with monkeypatch.context() as patch:
        patch.setattr(OpenPolicy, "open_harness", refuse_to_load)
        again = measure(model, folder, *tasks)
    assert find_metrics(again) == find_metrics(first)
    for name, path in paths.items():
        lines = whole[name].splitlines(keepends=True)
        path.write_text("".join([*lines[:2], lines[2][:40]]))  # two items, and one that a crash tore
    resumed = measure(model, folder, *tasks)
    assert find_metrics(resumed) == find_metrics(first)
    for name, path in paths.items():
        kept = whole[name].splitlines()[:2]
        assert path.read_text().splitlines()[:2] == kept and len(path.read_text().splitlines()) == NUM_DOCUMENTS
        assert [json.loads(x)["text"] for x in path.read_text().splitlines()] == [
            json.loads(x)["text"] for x in whole[name].splitlines()
        ]


def test_a_random_choice_of_documents_asks_them_as_the_whole_task_does(model: Path, folder: Path) -> None:
    """Examples are drawn for all documents in turn: which are asked must not change what stands before them."""
    task = build_task("tiny_choices", shots=1)
    few = measure(model, folder, task, rows=3).measured["tiny-choices"].read_items()
    every = {item.item_id: item for item in measure(model, folder, task).measured["tiny-choices"].read_items()}
    assert len(few) == 3 and len(every) == NUM_DOCUMENTS
    assert all(item == every[item.item_id] for item in few)


def test_an_item_says_what_was_asked_what_the_policy_chose_and_what_is_right(model: Path, folder: Path) -> None:
    measured = measure(model, folder, build_task("tiny_choices"), build_task("tiny_answers")).measured
    item = measured["tiny-choices"].read_items()[1]
    row = json.loads((folder / "questions.jsonl").read_text().splitlines()[1])
    assert item.item_id == "1"
    assert item.prompt == [{"role": "user", "content": f"{row['question']}\nAnswer:"}]
    assert item.reference == row["choices"][row["gold"]]
    parts = item.outcome.parts
    sums = [parts[f"loglikelihood_{index}"] for index in range(3)]
    assert item.text == row["choices"][sums.index(max(sums))]
    assert item.outcome.value == float(item.text == item.reference)
    by_length = [total / len(text) for total, text in zip(sums, row["choices"], strict=True)]
    assert parts["acc_norm"] == float(by_length.index(max(by_length)) == row["gold"])
    drawn = measured["tiny-answers"].read_items()[0].outcome.parts
    assert {"drawn_tokens", "drawn_nats", "stopped", "exact_match,whole"} <= set(drawn)
    card = json.loads(measured["tiny-answers"].items_path.with_suffix(".json").read_text())
    assert card["metric"] == "exact_match,first" and card["parts"] == ["exact_match,whole"]
    assert card["template"] == hash_text("text")


def test_metrics_of_all_documents_have_the_harnesss_value_and_standard_error(model: Path, folder: Path) -> None:
    """The harness's bootstrap draws with the seed 0, 1,000 times: the same numbers as its own function gives."""
    from lm_eval.api.metrics import perplexity

    measured = measure(model, folder, build_task("tiny_words")).measured["tiny-words"]
    found = {figures["name"]: figures for figures in measured.metrics}["perplexity"]
    sums = [item.outcome.parts["loglikelihood_0"] for item in measured.read_items()]
    draws = random.Random(0)
    resampled = [perplexity(draws.choices(sums, k=len(sums))) for _ in range(1000)]
    error = float(np.std(resampled, ddof=1))
    assert found["value"] == pytest.approx(perplexity(sums)) and found["method"] == "harness"
    assert found["high"] == pytest.approx(found["value"] + 1.959964 * error)
    assert found["low"] == pytest.approx(max(0.0, found["value"] - 1.959964 * error))


def test_a_text_is_worth_the_geometric_mean_probability_of_its_bytes(model: Path, folder: Path) -> None:
    measured = measure(model, folder, build_task("tiny_texts")).measured["tiny-texts"]
    for item in measured.read_items():
        size = len(item.reference.encode())
        assert item.outcome.value == pytest.approx(np.exp(item.outcome.parts["loglikelihood_0"] / size))
    assert measured.metrics[0]["name"] == "byte_probability" and 0 < measured.metrics[0]["value"] < 1


def test_repetitions_are_drawn_apart_and_judged_together(model: Path, folder: Path) -> None:
    add_task(folder, "tiny_repeats", "tiny_answers", ("do_sample: false", "do_sample: true, temperature: 1.5"),
             ("test_split: test", "test_split: test\nrepeats: 3"))  # fmt: skip
    first = measure(model, folder, build_task("tiny_repeats")).measured["tiny-repeats"]
    texts = [json.loads(item.text)[0] for item in first.read_items()]
    assert all(len(repeated) == 3 for repeated in texts) and any(len(set(repeated)) == 3 for repeated in texts)
    first.items_path.unlink()
    again = measure(model, folder, build_task("tiny_repeats")).measured["tiny-repeats"]
    assert [item.text for item in again.read_items()] == [item.text for item in first.read_items()]
    assert again.metrics == first.metrics


def test_gates_and_comparisons_read_a_tasks_items(workshop: Workshop) -> None:
    write_tasks(workshop.folder, 40)
    gate = {
        "keep": [{"metric": "animals", "margin": 0.9}, {"metric": "animals/acc_norm", "margin": 0.9}],
        "ceiling": [{"metric": "animals/acc_norm", "at_most": 0.99}],
    }
    task = {"name": "animals", "type": "harness", "task": "tiny_choices", "include": TASKS_FOLDER}
    done = workshop.run(sft(gate=gate), evaluate=[task])
    assert done.record["stages"][0]["gate"]["attempts"][0]["decisions"][0]["action"] == "promote"
    findings = [one for one in done.record["preflight"] if one["name"] == "harness"]
    assert findings[0]["found"] == "tiny_choices asks for multiple_choice; an item is worth acc"
    sides = [
        read_side(name, artifact["hash"], done.folder.evaluations(artifact["hash"]).root)
        for name, artifact in zip("ab", done.record["artifacts"], strict=True)
    ]
    compared = {metric.name: metric for metric in compare_sides(*sides).metrics}
    assert set(compared) == {"acc", "acc_norm"} and compared["acc_norm"].num_items == 40
    assert compared["acc_norm"].lower_is_better is False


def test_running_the_harness_leaves_global_random_numbers_and_the_terminal_alone(
    model: Path, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    random.seed(5), np.random.seed(5)
    expected = random.Random(5).random(), np.random.RandomState(5).random()
    measure(model, folder, build_task("tiny_words"), build_task("tiny_texts"))
    assert (random.random(), np.random.random()) == expected
    printed = capfd.readouterr()
    assert "it/s" not in printed.err and "bootstrapping" not in printed.out


def load(folder: Path, **changes: Any) -> harness.LoadedTask:
    values = {"name": "t", "type": "harness", "task": "tiny_choices", **changes}
    return harness.load_task(HarnessTask.model_validate(values), folder / TASKS_FOLDER)


def test_a_tasks_name_by_content_knows_its_code_its_documents_and_its_settings(folder: Path) -> None:
    before = load(folder)
    assert load(folder).hash == before.hash
    assert len({before.hash, load(folder, shots=1).hash, load(folder, limit=3).hash}) == 3
    moved = folder / "elsewhere.jsonl"
    (folder / "questions.jsonl").rename(moved)
    yaml = folder / TASKS_FOLDER / "tiny_choices.yaml"
    yaml.write_text(yaml.read_text())
    text = yaml.read_text()
    (folder / "questions.jsonl").write_text(moved.read_text().replace("elephant", "elephants"))
    assert load(folder).hash != before.hash  # another document
    (folder / "questions.jsonl").write_text(moved.read_text())
    assert load(folder).hash == before.hash
    (folder / TASKS_FOLDER / "functions.py").write_text("def ask(doc):\n    return doc['question']\n")
    assert load(folder).hash != before.hash  # code beside the task
    yaml.write_text(text.replace("metadata: {version: 1.0}", "metadata: {version: 2.0}"))
    (folder / TASKS_FOLDER / "functions.py").unlink()
    assert load(folder).hash != before.hash  # another version


def test_a_document_that_differs_by_an_address_is_another_task(folder: Path) -> None:
    """What a text says of memory is part of it; the address of an object is not."""
    text = (folder / "questions.jsonl").read_text()
    hashes = set()
    for address in ("0x1f", "0x2e", "0x1f"):
        (folder / "questions.jsonl").write_text(text.replace("elephant", f"elephant at {address}"))
        hashes.add(load(folder).hash)
    assert "elephant" in text and len(hashes) == 2
    assert harness._describe([object()]) == harness._describe([object()]) == '["<object object>"]'


def test_a_plan_imports_no_function_of_a_tasks_folder(workshop: Workshop) -> None:
    write_tasks(workshop.folder, 6)
    seen = workshop.folder / "seen.txt"
    tasks = workshop.folder / TASKS_FOLDER
    (tasks / "functions.py").write_text(
        f"open({str(seen)!r}, 'a').write('imported')\ndef ask(doc):\n    return doc['question']\n"
    )
    add_task(workshop.folder, "tiny_own", "tiny_choices", ('"{{question}}\\nAnswer:"', "!function functions.ask"))
    task = {"name": "own", "type": "harness", "task": "tiny_own", "include": TASKS_FOLDER}
    path = workshop.folder / "own.yaml"
    path.write_text(json.dumps(recipe_values(sft(), evaluate=[task])))
    build_plan(read_recipe(path))
    assert not seen.exists()
    loaded = harness.load_task(HarnessTask.model_validate(task), tasks)
    assert seen.exists() and loaded.describe_prompt(0)[0]["content"].startswith("which animal")


def test_a_suite_lists_the_harnesss_tasks_by_name_and_groups_by_their_members(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval.tasks import TaskManager

    (folder / TASKS_FOLDER / "group.yaml").write_text("group: tiny_all\ntask: [tiny_words, tiny_texts]\n")
    manager = TaskManager(include_path=str(folder / TASKS_FOLDER), include_defaults=False)
    monkeypatch.setattr(harness, "_list_built_in", lambda: manager)
    suite = read_suite("harness:tiny_choices, tiny_all")
    assert [task.task for task in suite.tasks if isinstance(task, HarnessTask)] == [
        "tiny_choices", "tiny_words", "tiny_texts",
    ]  # fmt: skip
    with pytest.raises(RecipeError, match="group of 2 tasks") as group:
        harness.load_task(HarnessTask(name="g", type="harness", task="tiny_all"), None)
    assert "tiny_words, tiny_texts" in group.value.cure
    with pytest.raises(RecipeError, match="no task 'tiny_choice'") as unknown:
        harness.load_task(HarnessTask(name="u", type="harness", task="tiny_choice"), None)
    assert "did you mean 'tiny_choices'" in unknown.value.cure


REFUSALS: dict[str, tuple[str, tuple[tuple[str, str], ...], dict[str, Any], type[PosttrainError], str, str]] = {
    "programs": ("tiny_choices", (("test_split: test", "test_split: test\nunsafe_code: true"),), {},
                 RefusedError, "runs the programs", "--allow-unsafe-execution"),
    "pictures": ("tiny_choices", (("test_split: test", "test_split: test\ndoc_to_image: picture"),), {},
                 RefusedError, "pictures or sound", "another task"),
    "data away": ("tiny_choices", (("dataset_path: json", "dataset_path: nobody/nothing"),
                                   ("dataset_kwargs", "#")), {}, DataError, "cannot be read", "HF_HUB_OFFLINE"),
    "no file": ("tiny_choices", (("questions.jsonl", "none.jsonl"),), {}, DataError, "cannot be read", "data_files"),
    "no package": ("tiny_choices", (("test_split: test", "test_split: test\nprocess_docs: !function broken.need"),), {},
                   DataError, "needs the package 'no_such_package'", "pip install no_such_package"),
    "no YAML key": ("tiny_choices", (("test_split", "tset_split"),), {}, DataError, "raised", "check its YAML"),
    "metric": ("tiny_choices", (), {"metric": "accuracy"}, RefusedError, "'accuracy' is no metric", "'metric'"),
    "lower is better": ("tiny_words", (), {"metric": "perplexity"}, RefusedError, "no metric that an item", "'metric'"),
    "no value": ("tiny_answers", (("exact_match", "chrf"),), {}, RefusedError, "no metric has a value", "include"),
    "shots": ("tiny_choices", (("test_split: test", "test_split: test\nnum_fewshot: 0"),), {"shots": 2},
              RecipeError, "made for none", "leave 'shots' out"),
    "beams": ("tiny_answers", (("do_sample: false", "num_beams: 4"),), {}, DataError, "num_beams", "without it"),
    "room": ("tiny_answers", (("max_gen_toks: 12", "max_gen_toks: 512"),), {}, DataError,
             "answers of up to 512 tokens in a context of 512", "max_gen_toks"),
    "judge": ("tiny_choices", (("test_split: test", "test_split: test\nprocess_results: !function broken.judge"),),
              {"metric": "acc"}, RefusedError, "the harness failed on 6 of 6 items: the task's code raised", "mend"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(REFUSALS))
def test_what_cannot_be_measured_is_refused_with_a_cure(model: Path, folder: Path, case: str) -> None:
    source, changes, settings, kind, found, cure = REFUSALS[case]
    (folder / TASKS_FOLDER / "broken.py").write_text(
        "def need(docs):\n    import no_such_package\n\ndef judge(doc, results):\n    raise KeyError('gold')\n"
    )
    add_task(folder, "tiny_bad", source, *changes)
    with pytest.raises(kind, match=found) as error:
        measure(model, folder, build_task("tiny_bad", **settings))
    assert cure in error.value.cure and error.value.place


def test_a_folder_of_tasks_outside_the_roots_and_one_that_is_none_are_refused(model: Path, folder: Path) -> None:
    with pytest.raises(RecipeError, match="outside the declared roots"):
        measure(model, folder, build_task("tiny_choices", include="../.."))
    with pytest.raises(RecipeError, match="is no folder"):
        measure(model, folder, build_task("tiny_choices", include="questions.jsonl"))
    recipe = folder / "recipe.yaml"
    task = {"name": "t", "type": "harness", "task": "x", "include": "/etc"}
    recipe.write_text(json.dumps(recipe_values(sft(), evaluate=[task])))
    with pytest.raises(RecipeError, match="outside the declared roots"):
        read_recipe(recipe)


def test_without_the_package_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.importlib.util, "find_spec", lambda name: None)
    for action in (lambda: load(folder), lambda: read_suite("harness:arc_easy")):
        with pytest.raises(RecipeError, match="not installed") as error:
            action()
        assert "posttrain[eval]" in error.value.cure


def test_a_repair_cannot_be_searched_on_a_task_of_the_harness(workshop: Workshop) -> None:
    task = {"name": "t", "type": "harness", "task": "x"}
    gate = {"keep": [{"metric": "t", "margin": 0.1}], "on_fail": ["interpolate"]}
    path = workshop.folder / "gated.yaml"
    path.write_text(json.dumps(recipe_values(sft(gate=gate), evaluate=[task])))
    with pytest.raises(RecipeError, match="no rows to search a repair on"):
        read_recipe(path)
