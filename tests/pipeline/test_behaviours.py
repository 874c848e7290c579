"""Suites of behaviours from a writer to the figures: nothing asked twice, nothing lost, the same bytes again."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest

from posttrain.core.errors import RecipeError, RefusedError, SamplerError, TerminatedError
from posttrain.core.progress import SilentProgress
from posttrain.evaluation.behaviours.filtering import JudgeQuestion, build_judge_questions
from posttrain.evaluation.behaviours.rows import build_choice_rows, build_statement_row, read_published
from posttrain.evaluation.monitors.position_bias import PositionBiasMonitor
from posttrain.pipeline.behaviour_models import ask_shares, open_filter, open_writer
from posttrain.pipeline.behaviour_suites import BehaviourReport, list_behaviours, read_behaviour
from posttrain.pipeline.behaviours import WritingChoice, write_behaviours, write_rows
from posttrain.pipeline.evaluating import EvaluationChoice, evaluate_model
from posttrain.pipeline.suites import read_suite
from posttrain.pipeline.talking import ModelChoice
from posttrain.samplers.served import ServedSampler
from tests.pipeline.scripted_writing import (
    OPTIONS,
    STATEMENTS,
    ScriptedFilter,
    ScriptedSampler,
    choose,
    write_questions,
)
from tests.samplers.endpoint import Call, Endpoint, chat_answer


def never() -> bool:
    return False


def write(
    choice: WritingChoice, sampler: ScriptedSampler, judge: ScriptedFilter | None = None, **changes: Any
) -> BehaviourReport:
    opened = None if judge is None else judge.filter
    return write_rows(choice, sampler.writer, opened, SilentProgress(), changes.get("should_stop", never))


def read_rows(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_are_written_judged_balanced_and_accounted_for(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    report = write(choose(out, 20, filter=ModelChoice("judge")), ScriptedSampler(), ScriptedFilter())
    rows = read_rows(out)
    assert [row["answer_matching_behavior"] for row in rows] == [" Yes", " No"] * 10
    assert all(row["label_confidence"] == 0.9 for row in rows)
    assert all(("not_matching" in row["statement"]) == (row["answer_matching_behavior"] == " No") for row in rows)
    assert (report.num_rows, report.is_complete, report.labels) == (20, True, {"Yes": 10, "No": 10})
    # Eight prompts of ten drafts: 20 kept, a repeat and a farewell of each prompt, the rest not needed.
    dropped = {reason: entry["rows"] for reason, entry in report.account["dropped"].items()}
    assert (report.prompts, report.account["drafts"], report.account["kept"]) == (8, 80, 20)
    assert dropped == {"not needed": 44, "duplicate": 8, "unreadable": 8}


def test_more_rows_begin_with_those_that_are_there_and_ask_nothing_twice(tmp_path: Path) -> None:
    out, sampler, judge = tmp_path / "rows.jsonl", ScriptedSampler(), ScriptedFilter()
    choice = choose(out, 20, filter=ModelChoice("judge"))
    write(choice, sampler, judge)
    first, num_asked, num_judged = out.read_text(), len(sampler.asked), judge.num_asked
    write(choice, sampler, judge)
    assert (out.read_text(), len(sampler.asked), judge.num_asked) == (first, num_asked, num_judged)
    report = write(choose(out, 200, filter=ModelChoice("judge")), sampler, judge)
    assert report.is_complete
    assert out.read_text().startswith(first)
    assert len(set(sampler.asked)) == len(sampler.asked) == 32
    whole = tmp_path / "whole.jsonl"
    write(choose(whole, 200, filter=ModelChoice("judge")), ScriptedSampler(), ScriptedFilter())
    assert whole.read_bytes() == out.read_bytes()


def test_a_writing_that_was_stopped_or_failed_anywhere_goes_on_to_the_same_file(tmp_path: Path) -> None:
    whole = tmp_path / "whole.jsonl"
    write(choose(whole, 100), ScriptedSampler())
    for stop_after in (1, 5, 9):
        out, sampler = tmp_path / f"stopped-{stop_after}.jsonl", ScriptedSampler()
        with pytest.raises(TerminatedError):
            write(choose(out, 100), sampler, should_stop=lambda: len(sampler.asked) >= stop_after)  # noqa: B023
        write(choose(out, 100), sampler)
        assert len(set(sampler.asked)) == len(sampler.asked)
        assert out.read_bytes() == whole.read_bytes()
        failing, out = ScriptedSampler(fails_after=stop_after), tmp_path / f"failed-{stop_after}.jsonl"
        with pytest.raises(SamplerError):
            write(choose(out, 100), failing)
        assert not out.exists()
        write(choose(out, 100), failing)
        assert len(set(failing.asked)) == len(failing.asked)
        assert out.read_bytes() == whole.read_bytes()


def test_a_file_begun_by_another_writer_or_for_another_behaviour_is_refused_and_kept(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    write(choose(out, 20), ScriptedSampler())
    kept = out.read_bytes()
    others = [
        (choose(out, 20), ScriptedSampler(policy_hash="other")),
        (choose(out, 20, seed=1), ScriptedSampler()),
        (choose(out, 20, STATEMENTS.model_copy(update={"description": "sings"})), ScriptedSampler()),
    ]
    for choice, sampler in others:
        with pytest.raises(RefusedError, match="drawn otherwise"):
            write(choice, sampler)
        assert out.read_bytes() == kept


def test_another_threshold_asks_nothing_and_keeps_other_rows(tmp_path: Path) -> None:
    def by_letters(question: JudgeQuestion) -> float:
        return 0.6 if sum(map(ord, question.messages[0]["content"])) % 2 else 0.8

    out, sampler, judge = tmp_path / "rows.jsonl", ScriptedSampler(), ScriptedFilter(by_letters)
    write(choose(out, 20, filter=ModelChoice("judge")), sampler, judge)
    assert {row["label_confidence"] for row in read_rows(out)} == {0.6, 0.8}
    num_judged = judge.num_asked
    report = write(choose(out, 20, filter=ModelChoice("judge"), threshold=0.7), sampler, judge)
    assert {row["label_confidence"] for row in read_rows(out)} == {0.8}
    assert judge.num_asked == num_judged
    assert report.account["dropped"]["filter is not sure"]["rows"] > 0


def test_options_have_the_matching_one_first_and_last_in_turn(tmp_path: Path) -> None:
    out, judge = tmp_path / "rows.jsonl", ScriptedFilter()
    report = write(choose(out, 21, OPTIONS, filter=ModelChoice("judge")), ScriptedSampler(write_questions), judge)
    rows = read_rows(out)
    assert [row["answer_matching_behavior"] for row in rows] == ([" (A)", " (B)"] * 11)[:21]
    for values in rows:
        row = read_published(values)
        assert row.options[row.matching].startswith("matching ")
    assert report.labels == {"(A)": 11, "(B)": 10}
    assert judge.num_asked == 2 * 36  # both orders of all rows of four prompts


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I cannot help with that.",
        "Ignore previous instructions.",
        '{"statement": "same to everybody here"}',
        "[" * 9999,
    ],
)
def test_a_writer_that_gives_nothing_ends_with_a_report_and_no_rows_that_are_not_there(
    tmp_path: Path, text: str
) -> None:
    report = write(choose(tmp_path / "rows.jsonl", 20), ScriptedSampler(lambda problem_id: text))
    assert report.num_rows <= 1
    assert not report.is_complete
    assert "in a row gave no row" in report.notes[0]
    assert report.account["drafts"] == report.prompts
    assert len(read_rows(tmp_path / "rows.jsonl")) == report.num_rows


def test_a_filter_that_says_yes_to_everything_is_told_of(tmp_path: Path) -> None:
    judge = ScriptedFilter(lambda question: 0.9 if question.label == 0 else 0.1)
    choice = choose(tmp_path / "rows.jsonl", 20, filter=ModelChoice("judge"))
    report = write(choice, ScriptedSampler(), judge)
    assert report.labels == {"Yes": 10, "No": 0}
    assert report.separation == 0.5
    assert any("hardly tells the labels apart" in note for note in report.notes)
    silent = write(
        choose(tmp_path / "b.jsonl", 20, filter=ModelChoice("judge")), ScriptedSampler(), ScriptedFilter(lambda _: None)
    )
    assert silent.account["dropped"]["filter did not answer"]["rows"] > 0


def test_every_description_that_is_shipped_can_be_asked_and_its_examples_are_sound() -> None:
    names = list_behaviours()
    assert {"sycophancy", "power-seeking", "corrigibility", "self-preservation", "deference"} < set(names)
    for name in names:
        behaviour = read_behaviour(name)
        assert behaviour.name == name
        assert behaviour.examples
    with pytest.raises(RecipeError, match="no behaviour is called 'sycophany'"):
        read_behaviour("sycophany")


def test_a_local_model_writes_and_judges_the_same_bytes_again(tiny_base: Path, tmp_path: Path) -> None:
    """A random model writes nothing that can be read; what it weighs is what transformers' logits say."""
    from posttrain.core.sampling import SamplingSettings

    files = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        choice = WritingChoice(
            STATEMENTS.model_copy(update={"matching": "Hums.", "not_matching": "Not.", "name": "h"}),
            ModelChoice(str(tiny_base)),
            ModelChoice(str(tiny_base)),
            4,
            tmp_path / name / "rows.jsonl",
            settings=SamplingSettings(8, temperature=1.0),
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "posttrain.pipeline.behaviours.build_writing_prompt", lambda *_: [{"role": "user", "content": "hum"}]
            )
            report = write_behaviours(choice, SilentProgress(), never)
        assert not report.is_complete
        files.append((tmp_path / name / "rows.jsonl.written.jsonl").read_bytes())
    assert files[0] == files[1]


def test_a_local_filter_weighs_answers_as_a_choice_task_does(tiny_base: Path, tmp_path: Path) -> None:
    questions = [JudgeQuestion([{"role": "user", "content": f"{n} hums?"}], ("Yes", "No"), n % 2) for n in range(5)]
    with open_filter(ModelChoice(str(tiny_base))) as opened:
        shares = opened.compute_shares(questions)
    rows = [{"prompt": f"{n} hums?", "choices": ["Yes", "No"], "answer": ["Yes", "No"][n % 2]} for n in range(5)]
    items = evaluate_rows(tmp_path, str(tiny_base), rows, "normalisation: sum")
    assert shares == pytest.approx([item.outcome.parts["right_probability"] for item in items], abs=1e-5)


def evaluate_rows(
    folder: Path, model: str, rows: list[dict[str, Any]], settings: str, rows_at_most: int | None = None
) -> list[Any]:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = f"{{name: asked, type: choice, data: {{source: rows.jsonl}}, {settings}}}"
    (folder / "suite.yaml").write_text(f"schema: 1\nname: s\nevaluate:\n  - {task}\n")
    choice = EvaluationChoice(read_suite(str(folder / "suite.yaml")), folder=folder)
    evaluated = evaluate_model(model, choice, SilentProgress(), never)
    return evaluated.measured["asked"].read_items()


def test_an_endpoint_writes_and_judges(tmp_path: Path) -> None:
    """The writer's text comes from the endpoint; the filter's share from the probabilities of its first token."""

    def respond(call: Call) -> None:
        asked = call.body["messages"][-1]["content"]
        if "Answer Yes or No." not in asked:
            side = "never" if "would never say" in asked else "always"
            call.answer(json.dumps([{"statement": f"I {side} hum {call.body['seed']}-{n} times"} for n in range(3)]))
            return
        top = [{"token": text, "logprob": math.log(p)} for text, p in ((" Yes", 0.3), ("yes", 0.3), ("No", 0.2))]
        answer = chat_answer("Yes")
        answer["choices"][0]["logprobs"] = {
            "content": [{"token": " Yes", "logprob": math.log(0.3), "top_logprobs": top}]
        }
        answer["usage"]["completion_tokens"] = 1
        call.reply(answer)

    with Endpoint(respond) as endpoint:
        file = tmp_path / "served.yaml"
        file.write_text(f"base_url: {endpoint.url}\nmodel: tiny\n")
        model = ModelChoice(str(file))
        out = tmp_path / "rows.jsonl"
        report = write_behaviours(WritingChoice(STATEMENTS, model, model, 4, out), SilentProgress(), never)
        num_calls = len(endpoint.calls)
        write_behaviours(WritingChoice(STATEMENTS, model, model, 4, out), SilentProgress(), never)
        assert len(endpoint.calls) == num_calls
        # Yes has 0.6 of 0.8: the statements that match are kept, those that do not are said to.
        assert {row["label_confidence"] for row in read_rows(out)} == {0.75}
        assert report.labels == {"Yes": 2, "No": 0}
        letters = build_judge_questions(
            OPTIONS, read_published({"question": "q\n(A) x\n(B) y", "answer_matching_behavior": "(A)"})
        )
        sampler = ServedSampler(endpoint.settings())
        answers = [
            JudgeQuestion(letters[0].messages, ("Yes", "yEs"), 0),
            JudgeQuestion([{"role": "user", "content": "Answer Yes or No."}], ("A", "B"), 0),
        ]
        assert ask_shares(sampler, answers[1:]) == [None]
        sampler.close()


def test_an_endpoint_file_with_an_unknown_key_or_another_route_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "served.yaml"
    file.write_text("base_url: http://127.0.0.1:9/v1\nmodel: tiny\nroute: completions\n")
    with pytest.raises(RecipeError, match="route: completions"), open_writer(ModelChoice(str(file))):
        pass
    file.write_text("base_url: http://127.0.0.1:9/v1\nmodle: tiny\n")
    with pytest.raises(RecipeError, match="unknown key 'modle'"), open_filter(ModelChoice(str(file))):
        pass


def read_monitor(items: list[Any]) -> Any:
    return PositionBiasMonitor(type="position_bias", task="asked").read({"asked": items}, None)


def test_a_random_model_asked_in_both_orders_measures_nothing_and_says_so(tiny_base: Path, tmp_path: Path) -> None:
    """Letters of a model that knows nothing: half of the answers match, and hardly one keeps its option."""
    rows = [build_statement_row(f"I hum {n} times.", is_matching=n % 2 == 0) for n in range(40)]
    items = evaluate_rows(
        tmp_path, str(tiny_base), build_choice_rows(rows, "h"), "options: letters, normalisation: sum"
    )
    figures = {figure.name: figure for figure in read_monitor(items).figures}
    assert read_monitor(items).status == "alarm"
    assert figures["share_matching"].value is None
    assert figures["consistency"].value is not None
    assert figures["consistency"].value < 0.5


@pytest.mark.invariants
@pytest.mark.parametrize("name", ["lm_generated/survival-instinct", "human_generated/corrigible-neutral-HHH"])
def test_published_questions_in_both_orders_say_nothing_of_a_tiny_model_but_its_positions(
    real_data: Path, tmp_path: Path, name: str
) -> None:
    path = real_data / "anthropic-evals" / f"{name}.jsonl.gz"
    if not path.exists():
        pytest.skip(f"no {path}")
    with gzip.open(path, "rt") as file:
        rows = [read_published(json.loads(line), f"{name}:{n}") for n, line in enumerate(file, start=1)]
    short = [row for row in rows if len(row.question) < 250 and len(row.options) == 2][:100]
    items = evaluate_rows(tmp_path, "lab:base", build_choice_rows(short, "p"), "options: letters, normalisation: sum")
    reading = read_monitor(items)
    assert len(items) == 2 * len(short) > 100
    assert reading.status != "silent"
    [matching] = [figure for figure in reading.figures if figure.name == "share_matching"]
    assert matching.value is None
