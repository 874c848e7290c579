"""Tasks of every type on a tiny model: figures against transformers' own logits, reuse by policy, growing choices."""

from __future__ import annotations

import json
import math
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from posttrain.core.errors import DataError, RecipeError
from posttrain.core.records import Problem
from posttrain.core.run_folder import RunFolder
from posttrain.evaluation.questions import read_question
from posttrain.evaluation.task import ChoiceTask, GenerationTask, PerplexityTask, find_development
from posttrain.pipeline.measure import Measurer, OpenPolicy, read_measure_settings
from posttrain.pipeline.plan import hash_base
from posttrain.pipeline.policies import find_base, open_renderer
from tests.pipeline.tiny_runs import Notes, Workshop, make_rows

ANIMALS = ["ant", "elephant", "cow"]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


class Bench:
    """A measurer over the tiny base."""

    def __init__(self, workshop: Workshop, stack: ExitStack, seed: int = 0) -> None:
        recipe = workshop.read()
        self.base = find_base(recipe)
        self.renderer = stack.enter_context(open_renderer(recipe, self.base))
        self.notes = Notes()
        settings = read_measure_settings(recipe)
        self.measurer = Measurer(
            settings, RunFolder(workshop.folder / "measured"), self.renderer, self.notes, seed=seed
        )
        self.policy = self.measurer.open(stack, self.base, hash_base(self.base))

    def log_likelihoods(self, ids: list[int]) -> torch.Tensor:
        """Of every token but the first, by transformers' own logits."""
        model = AutoModelForCausalLM.from_pretrained(self.base, dtype=torch.float32)
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        return logits.gather(1, torch.tensor(ids[1:]).unsqueeze(1))[:, 0]


@pytest.fixture
def bench(workshop: Workshop) -> Any:
    with ExitStack() as stack:
        yield Bench(workshop, stack)


def weigh_by_hand(bench: Bench, question: str, choices: list[str]) -> list[float]:
    """The log-likelihood of each choice after the rendered prompt."""
    messages = [{"role": "user", "content": question}]
    [prompt] = bench.renderer.render_prompts([(messages, None)])
    sums = []
    for choice in choices:
        ids = bench.renderer.tokenizer.encode_with_offsets(choice)[0]
        sums.append(float(bench.log_likelihoods([*prompt.tolist(), *ids])[-len(ids) :].sum()))
    return sums


def test_choices_are_weighed_as_transformers_weighs_them(workshop: Workshop, bench: Bench) -> None:
    questions = [f"which animal is number {n}?" for n in range(6)]
    write(workshop.folder / "rows.jsonl", [{"prompt": q, "choices": ANIMALS, "answer": 1} for q in questions])
    task = ChoiceTask(name="animals", type="choice", data={"source": "rows.jsonl"}, parts=["by_sum", "by_token"])
    measured = bench.measurer.measure(bench.policy, task)
    items = measured.read_items()
    for question, item in zip(questions, items, strict=True):
        sums = weigh_by_hand(bench, question, ANIMALS)
        by_byte = [total / len(text) for total, text in zip(sums, ANIMALS, strict=True)]
        assert item.outcome.parts["by_sum"] == float(sums.index(max(sums)) == 1)
        assert item.outcome.value == item.outcome.parts["by_byte"] == float(by_byte.index(max(by_byte)) == 1)
        shares = torch.tensor(by_byte).softmax(0)
        assert item.outcome.parts["right_probability"] == pytest.approx(float(shares[1]), abs=1e-4)
        assert item.outcome.parts["confidence"] == pytest.approx(float(shares.max()), abs=1e-4)
        assert item.text == ANIMALS[by_byte.index(max(by_byte))]
    named = {figures["name"]: figures["value"] for figures in measured.metrics}
    assert named["accuracy"] == pytest.approx(sum(item.outcome.value for item in items) / 6)
    assert set(named) == {"accuracy", "by_sum", "by_token"}


def test_the_length_rule_decides_between_short_and_long_choices(workshop: Workshop, bench: Bench) -> None:
    """A random model gives every byte about the same probability: the sum prefers the short, the mean does not."""
    write(workshop.folder / "rows.jsonl", [{"prompt": f"{n}?", "choices": ["a", "bcdefghij"], "answer": "B"}
                                           for n in range(8)])  # fmt: skip
    data = {"source": "rows.jsonl"}
    by_sum = ChoiceTask(name="s", type="choice", data=data, normalisation="sum")
    by_token = ChoiceTask(name="t", type="choice", data=data, normalisation="token")
    assert bench.measurer.measure(bench.policy, by_sum).metrics[0]["value"] == 0.0
    found = bench.measurer.measure(bench.policy, by_token).read_items()
    assert len({item.task_hash for item in found}) == 1
    assert any(item.outcome.value == 1.0 for item in found)


def test_letters_show_the_options_and_weigh_their_letters(workshop: Workshop, bench: Bench) -> None:
    row = {"prompt": "which?", "choices": {"text": ANIMALS, "label": ["1", "2", "3"]}, "answer": "2"}
    write(workshop.folder / "rows.jsonl", [row])
    task = ChoiceTask(name="letters", type="choice", data={"source": "rows.jsonl"}, options="letters")
    [item] = bench.measurer.measure(bench.policy, task).read_items()
    sums = weigh_by_hand(bench, "which?\nA. ant\nB. elephant\nC. cow", ["A", "B", "C"])
    assert item.text == ANIMALS[sums.index(max(sums))]
    assert item.outcome.answer == str(1 + sums.index(max(sums)))
    assert item.outcome.value == float(sums.index(max(sums)) == 1)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "?", "answer": 0}, "no column 'choices'"),
        ({"prompt": "?", "choices": ["a"], "answer": 0}, "choices"),
        ({"prompt": "?", "choices": ["a", "a"], "answer": 0}, "choices"),
        ({"prompt": "?", "choices": ["a", ""], "answer": 0}, "choices"),
        ({"prompt": "?", "choices": ["a", "b"], "answer": 2}, "'answer' is 2"),
        ({"prompt": "?", "choices": ["a", "b"], "answer": "c"}, "'answer' is 'c'"),
        ({"prompt": "?", "choices": ["a", "b"], "answer": True}, "'answer' is True"),
        ({"prompt": "?", "choices": ["a", "b"]}, "no column 'answer'"),
        (
            {"prompt": "?", "choices": ["2", "4", "6"], "answer": 2},
            "as its place it is .*'6'.* as its text it is .*'2'",
        ),
        ({"prompt": "?", "choices": ["B", "A"], "answer": "A"}, "as its letter it is .*'B'.* as its text it is .*'A'"),
        ({"prompt": "?", "choices": {"text": ["a", "b"], "label": ["B", "A"]}, "answer": "A"}, "several ways"),
        ({"prompt": "?", "choices": {"text": ["a", "b"], "label": None}, "answer": 0}, "choices"),
        ({"prompt": "?", "choices": {"text": ["a", "b"], "label": 3}, "answer": 0}, "choices"),
        ({"prompt": "?", "choices": {"text": ["a", "b"], "label": ["x", "x"]}, "answer": "x"}, "choices"),
        ({"prompt": "?", "choices": {"text": ["a", "b"], "label": [None, {}]}, "answer": 0}, "choices"),
    ],
)
def test_rows_that_are_no_question_are_refused(
    workshop: Workshop, bench: Bench, row: dict[str, Any], said: str
) -> None:
    write(workshop.folder / "rows.jsonl", [row])
    task = ChoiceTask(name="bad", type="choice", data={"source": "rows.jsonl"})
    with pytest.raises(DataError, match=said):
        bench.measurer.measure(bench.policy, task)


@pytest.mark.parametrize(
    ("choices", "answer", "right"),
    [
        ({"text": ["a", "b", "c"], "label": [1, 2, 3]}, 2, 1),
        ({"text": ["2", "4", "6"], "label": ["1", "2", "3"]}, 2, 1),
        ({"text": ["a", "b", "c"], "label": ["x", "y", "z"]}, 2, 2),
        ({"text": ["a", "b"], "label": ["x", "y"]}, "B", 1),
        (["a", "b"], 1, 1),
        (["7", "8"], 8, 1),
        (["0", "1"], 1, 1),
    ],
)
def test_a_number_is_a_label_where_the_row_gives_labels_and_else_a_place(choices: Any, answer: Any, right: int) -> None:
    assert read_question(Problem("p", [], {"choices": choices, "answer": answer})).rights == (right,)


@pytest.mark.parametrize("has_bos", [True, False])
def test_perplexity_of_documents_is_that_of_transformers(
    workshop: Workshop, bench: Bench, monkeypatch: Any, has_bos: bool
) -> None:
    """Without a BOS nothing predicts the first token, here a byte, whose bytes are left out of bits per byte."""
    if not has_bos:
        monkeypatch.setattr(bench.renderer, "_bos_id", None)
    texts = ["the ant and the bee", "cow", "a much longer text about elk, fox and gnu, which goes on and on"]
    write(workshop.folder / "rows.jsonl", [{"text": text} for text in texts])
    task = PerplexityTask(name="documents", type="perplexity", data={"source": "rows.jsonl"})
    measured = bench.measurer.measure(bench.policy, task)
    nats = tokens = 0.0
    for text, item in zip(texts, measured.read_items(), strict=True):
        found = -bench.log_likelihoods(bench.renderer.render_document(text, add_eos=False).ids_T.tolist())
        assert item.outcome.parts["nats"] == pytest.approx(float(found.sum()), rel=1e-4)
        assert item.outcome.value == pytest.approx(math.exp(-float(found.mean())), rel=1e-4)
        nats, tokens = nats + float(found.sum()), tokens + len(found)
    named = {figures["name"]: figures for figures in measured.metrics}
    assert named["perplexity"]["value"] == pytest.approx(math.exp(nats / tokens), rel=1e-4)
    assert named["perplexity"]["low"] <= named["perplexity"]["value"] <= named["perplexity"]["high"]
    size = sum(len(text.encode()) - (0 if has_bos else 1) for text in texts)
    assert named["bits_per_byte"]["value"] == pytest.approx(nats / math.log(2) / size, rel=1e-4)


def test_perplexity_of_a_conversation_weighs_the_reply_and_its_stop_token(workshop: Workshop, bench: Bench) -> None:
    messages = [{"role": "user", "content": "ant?"}, {"role": "assistant", "content": "bee"}]
    write(workshop.folder / "rows.jsonl", [{"messages": messages, "answer": "something else"}])
    task = PerplexityTask(name="replies", type="perplexity", data={"source": "rows.jsonl"})
    [item] = bench.measurer.measure(bench.policy, task).read_items()
    [prompt] = bench.renderer.render_prompts([(messages[:1], None)])
    stop = bench.renderer.format.stop_ids[0]
    ids = bench.renderer.tokenizer.encode_with_offsets("bee")[0]
    found = bench.log_likelihoods([*prompt.tolist(), *ids, stop])[-len(ids) - 1 :]
    assert item.outcome.parts["tokens"] == len(ids) + 1
    assert item.outcome.parts["nats"] == pytest.approx(-float(found.sum()), rel=1e-4)


def test_a_text_beyond_the_context_is_weighed_in_windows(workshop: Workshop, bench: Bench) -> None:
    write(workshop.folder / "rows.jsonl", [{"text": "ant bee cow " * 60}])
    task = PerplexityTask(name="long", type="perplexity", data={"source": "rows.jsonl"})
    [item] = bench.measurer.measure(bench.policy, task).read_items()
    ids = bench.renderer.render_document("ant bee cow " * 60, add_eos=False).ids_T.tolist()
    assert len(ids) > 512
    assert item.outcome.parts["tokens"] == len(ids) - 1
    nats = float(-bench.log_likelihoods(ids[:256]).sum())
    for start in range(255, len(ids) - 1, 255):
        nats += float(-bench.log_likelihoods(ids[start : start + 256]).sum())
    assert item.outcome.parts["nats"] == pytest.approx(nats, rel=1e-4)


def test_what_a_policy_answered_is_not_asked_again(workshop: Workshop, bench: Bench, monkeypatch: Any) -> None:
    task = GenerationTask(name="held_out", data={"source": "held_out.jsonl"}, max_new_tokens=4)
    first = bench.measurer.measure(bench.policy, task)
    text = first.items_path.read_text()
    with ExitStack() as stack:
        again = Bench(workshop, stack)
        monkeypatch.setattr(OpenPolicy, "_load", lambda self: pytest.fail("the policy was loaded"))
        assert again.measurer.measure(again.policy, task).metrics == first.metrics
    assert first.items_path.read_text() == text
    card = json.loads(first.items_path.with_suffix(".json").read_text())
    assert (card["policy"], card["num_problems"], card["metric"]) == (bench.policy.hash, 5, "exact_match")
    assert (card["rows"], card["context_tokens"]) == ("data", 256)
    assert card["tokenizer"] == bench.renderer.tokenizer.content_hash


def test_another_seed_draws_anew_and_lies_in_a_file_of_its_own(workshop: Workshop, bench: Bench) -> None:
    task = GenerationTask(name="held_out", data={"source": "held_out.jsonl"}, max_new_tokens=6, temperature=1.0)
    first = bench.measurer.measure(bench.policy, task)
    with ExitStack() as stack:
        second = Bench(workshop, stack, seed=1)
        other = second.measurer.measure(second.policy, task)
    assert other.hash == first.hash and other.items_path != first.items_path
    assert [item.text for item in other.read_items()] != [item.text for item in first.read_items()]


def test_a_smaller_choice_of_rows_is_part_of_every_larger_one(workshop: Workshop, bench: Bench) -> None:
    make_rows(workshop.folder / "held_out.jsonl", 30, start=40)
    task = GenerationTask(name="held_out", data={"source": "held_out.jsonl"}, max_new_tokens=2)
    asked = []
    for first in (10, 20, None, 10):
        measured = bench.measurer.measure(bench.policy, task, first=first)
        items = measured.read_items()
        asked.append({item.item_id for item in items})
        assert {figures["n"] for figures in measured.metrics} == {len(items)}
    assert [len(ids) for ids in asked] == [10, 20, 30, 10]
    assert asked[0] < asked[1] < asked[2] and asked[3] == asked[0]
    assert len(measured.items_path.read_text().splitlines()) == 30


def test_development_rows_are_the_tasks_own_or_the_labs_split() -> None:
    lab = GenerationTask(name="a", data={"source": "lab:questions", "split": "held_out", "rows": 50})
    found = find_development(lab)
    assert found is not None and (found.source, found.split, found.rows) == ("lab:questions", "development", 50)
    own = GenerationTask(name="a", data={"source": "rows.jsonl"}, development={"source": "others.jsonl"})
    assert find_development(own) == own.development
    assert find_development(GenerationTask(name="a", data={"source": "rows.jsonl"})) is None
    with pytest.raises(ValueError, match="development"):
        GenerationTask(name="a", data={"source": "rows.jsonl"}, development={"source": "rows.jsonl"})


def test_a_task_without_development_rows_says_so(workshop: Workshop, bench: Bench) -> None:
    with pytest.raises(RecipeError, match="no rows for selection") as caught:
        bench.measurer.measure(
            bench.policy, GenerationTask(name="held_out", data={"source": "held_out.jsonl"}), rows="development"
        )
    assert "development:" in str(caught.value.cure)


def test_two_questions_of_one_stem_are_two_and_the_same_question_is_no_row_for_selection(
    workshop: Workshop, bench: Bench
) -> None:
    stem = {"prompt": "which is largest?", "answer": 0}
    write(workshop.folder / "rows.jsonl", [{**stem, "choices": ["ant", "bee"]}])
    write(workshop.folder / "others.jsonl", [{**stem, "choices": ["cow", "dog"]}])
    task = ChoiceTask(
        name="largest", type="choice", data={"source": "rows.jsonl"}, development={"source": "others.jsonl"}
    )
    assert [item.reference for item in bench.measurer.measure(bench.policy, task, rows="development").read_items()] == [
        "cow"
    ]
    [card] = (workshop.folder / "measured" / "evaluations").glob("*/*.json")
    assert json.loads(card.read_text())["rows"] == "development"
    write(workshop.folder / "others.jsonl", [{**stem, "choices": ["ant", "bee"]}])
    bench.measurer._prepared.clear()
    with pytest.raises(DataError, match="1 of 1 development rows"):
        bench.measurer.measure(bench.policy, task, rows="development")


def test_several_samples_give_pass_and_majority(workshop: Workshop, bench: Bench) -> None:
    task = GenerationTask(
        name="sampled", data={"source": "held_out.jsonl"}, max_new_tokens=4, temperature=1.0, num_samples=4,
        pass_at=[1, 4], cons_at=[3],
    )  # fmt: skip
    measured = bench.measurer.measure(bench.policy, task)
    items = measured.read_items()
    assert [(item.item_id, item.sample_index) for item in items] == [
        (item.item_id, index) for item in items[::4] for index in range(4)
    ]
    named = {figures["name"]: figures for figures in measured.metrics}
    assert set(named) == {"exact_match", "stop_rate", "pass@1", "pass@4", "cons@3"}
    assert named["stop_rate"]["n"] == 20 and named["stop_rate"]["clusters"] == 5
    assert named["pass@4"]["n"] == 5
    with pytest.raises(ValueError, match="num_samples"):
        GenerationTask(name="s", data={"source": "x"}, temperature=1.0, num_samples=2, pass_at=[3])
    with pytest.raises(ValueError, match="temperature 0"):
        GenerationTask(name="s", data={"source": "x"}, num_samples=2)


def test_a_document_has_no_prompt_to_answer(workshop: Workshop, bench: Bench) -> None:
    write(workshop.folder / "rows.jsonl", [{"text": "a document"}])
    with pytest.raises(DataError, match="no prompt"):
        bench.measurer.measure(bench.policy, GenerationTask(name="x", data={"source": "rows.jsonl"}))
