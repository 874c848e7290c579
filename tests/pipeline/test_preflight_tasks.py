"""Tasks before anything is trained: caps that cut right answers, and scorers that cannot tell right from wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from posttrain.core.errors import RefusedError
from posttrain.core.records import Completion, Outcome, Problem
from posttrain.evaluation.task import GenerationTask
from posttrain.pipeline.preflight import tasks
from posttrain.pipeline.preflight.length_caps import check_length_caps, compute_cap
from posttrain.pipeline.preflight.references import Reference
from posttrain.pipeline.preflight.scorer import check_scorer
from posttrain.pipeline.scorers import ScorerContext, build_scorer
from tests.pipeline.tiny_runs import Workshop, make_rows, sft, task

STOP = 1


def reference(answer: str | None, prompt_tokens: int = 4, **columns: Any) -> Reference:
    """A row whose answer has one token a letter, and a stop token."""
    messages = [{"role": "user", "content": "say it"}]
    problem = Problem(f"row {answer}", messages, {"answer": answer, **columns})
    prompt = np.zeros(prompt_tokens, np.int32)
    if answer is None:
        return Reference(problem, prompt)
    return Reference(problem, prompt, np.asarray([*[7] * len(answer), STOP], np.int32), answer)


# ---- caps


@pytest.mark.parametrize(
    ("lengths", "cap"),
    [([5], 8), ([8] * 10, 8), ([9] * 10, 16), ([*[10] * 99, 500], 16), ([*[10] * 98, 500, 500], 504)],
)
def test_a_cap_holds_99_percent_of_the_answers_rounded_up(lengths: list[int], cap: int) -> None:
    assert compute_cap(lengths) == cap


def judge_caps(references: Sequence[Reference], context: int | None = None, cap: int = 10) -> Any:
    chosen = GenerationTask.model_validate(task(max_new_tokens=cap))
    return check_length_caps("evaluate.held_out", chosen, references, context)


def test_answers_that_do_not_fit_are_refused_above_a_fifth_and_a_cap_that_fits_is_proposed() -> None:
    short, long = reference("a" * 9), reference("a" * 30)  # ten tokens with the stop token, and 31
    assert judge_caps([*[short] * 8, *[long] * 2]).status == "passed"
    found = judge_caps([*[short] * 7, *[long] * 3])
    assert found.status == "refused" and found.figures["references_cut"] == 3
    assert "set max_new_tokens: 32" in found.cure
    assert judge_caps([*[short] * 7, *[long] * 3], cap=32).status == "passed"


def test_prompts_that_leave_no_room_are_refused_whatever_is_overridden() -> None:
    rows = [reference("a", 20), reference("a", 50)]
    assert judge_caps(rows, context=60).status == "passed"
    found = judge_caps(rows, context=59)
    assert found.status == "refused" and not found.is_overridable
    assert found.figures["prompts_without_room"] == 1 and "set max_new_tokens: 9" in found.cure
    assert "longer context" in judge_caps(rows, context=50).cure


def test_rows_that_only_name_what_is_right_have_no_answer_to_measure() -> None:
    found = judge_caps([reference(None)] * 3)
    assert found.status == "skipped" and found.figures["proposed_max_new_tokens"] is None


# ---- scorers


class Scorer:
    """Gives what a function says of a row's columns and a text."""

    name = "made_up"

    def __init__(self, function: Callable[[dict[str, Any], Completion], Outcome]) -> None:
        self.score = lambda items: [function(problem.columns, completion) for problem, completion in items]


def scored(value: float) -> Outcome:
    return Outcome("scored", value)


ROWS = [reference(word) for word in ("ant", "bee", "cow", "hippopotamus")]


@pytest.mark.parametrize(
    "value",
    [
        lambda columns, completion: float(completion.text == columns["answer"]),
        lambda columns, completion: float(bool(completion.text)),  # every answer is as good as another, none is not
        lambda columns, completion: float(completion.finish_reason == "stop"),
        lambda columns, completion: float(len(completion.ids) <= 4),
    ],
    ids=["right", "not empty", "stops", "short"],
)
def test_a_scorer_that_looks_at_the_answer_passes(value: Callable[..., float]) -> None:
    assert check_scorer("evaluate.t", Scorer(lambda c, x: scored(value(c, x))), ROWS, STOP).status == "passed"


@pytest.mark.parametrize("value", [0.0, 1.0, 0.25])
def test_a_scorer_that_gives_everything_one_value_is_refused(value: float) -> None:
    found = check_scorer("evaluate.t", Scorer(lambda columns, completion: scored(value)), ROWS, STOP)
    assert found.status == "refused" and f"gives {value:g} to everything" in found.found
    assert found.figures["mean_empty"] == value and "choose another scorer" in found.cure


def test_a_scorer_that_looks_at_the_row_alone_is_refused() -> None:
    found = check_scorer("evaluate.t", Scorer(lambda columns, _: scored(len(columns["answer"]))), ROWS, STOP)
    assert found.status == "refused" and "whatever is answered" in found.found


def test_a_scorer_that_applies_to_nothing_or_fails_is_refused_as_such() -> None:
    nothing = Scorer(lambda columns, completion: Outcome("not_applicable", 0.0))
    assert "applies to none of 4" in check_scorer("evaluate.t", nothing, ROWS, STOP).found
    broken = Scorer(lambda columns, completion: Outcome("errored", 0.0, why="no checker", fault="harness"))
    found = check_scorer("evaluate.t", broken, ROWS, STOP)
    assert "failed on 4 of 4" in found.found and "no checker" in found.found


def test_rows_without_an_answer_of_their_own_are_not_scored() -> None:
    def fail(columns: dict[str, Any], completion: Completion) -> Outcome:
        raise AssertionError("nothing is to be scored")

    assert check_scorer("evaluate.t", Scorer(fail), [reference(None)] * 3, STOP).status == "skipped"


SOUND_TEXTS = ("Paris lies on the Seine, and so it does.", "I like walking in the woods on Sundays, and reading.")


@pytest.mark.parametrize(
    "value",
    [
        "exact_match",
        "personal_data",
        {"type": "length", "low": 0, "high": 400},
        {"type": "overlong", "max_length": 400, "cache": 100},
        {"type": "repetition"},
        {"type": "language", "language": "en"},
        {"type": "refusals", "wanted": "compliance"},
        {"type": "refusals", "wanted": "refusal"},
        {"type": "short_answer"},
    ],
    ids=str,
)
def test_scorers_that_find_nothing_wrong_with_right_answers_raise_no_false_alarm(value: Any) -> None:
    """Most give right and shuffled answers the same; an empty, a cut or a refusing one tells the difference."""
    rows = [reference(text) for text in SOUND_TEXTS]
    found = check_scorer("evaluate.t", build_scorer(value, ScorerContext()), rows, STOP)
    assert found.status == "passed", found


# ---- in a run


def recorded(workshop: Workshop, into: str = "run") -> dict[str, Any]:
    record = json.loads((workshop.folder / into / "run.json").read_text())
    return {f"{f['stage']}:{f['name']}": f for f in record["preflight"]}


def test_a_cap_too_small_for_the_rows_own_answers_is_refused_with_one_that_is_not(workshop: Workshop) -> None:
    with pytest.raises(RefusedError, match=r"5 of 5 reference answers \(100%\)") as refused:
        workshop.run(evaluate=[task(max_new_tokens=3)])
    assert refused.value.place == "evaluate.held_out: length_caps"
    assert "set max_new_tokens: 8" in refused.value.cure
    done = workshop.run(evaluate=[task(max_new_tokens=8)])
    assert done.statuses == ["finished"]
    let = workshop.run(evaluate=[task(max_new_tokens=3)], override=["evaluate.held_out:length_caps"])
    assert recorded(workshop)["evaluate.held_out:length_caps"]["status"] == "overridden"
    assert let.record["metrics"][0]["outcomes"]["truncated"] > 0


def test_a_users_scorer_that_is_always_content_is_refused(workshop: Workshop) -> None:
    (workshop.folder / "own.py").write_text(
        "def content(completions, **columns):\n    return [1.0] * len(completions)\n"
    )
    with pytest.raises(RefusedError, match="content gives 1 to everything") as refused:
        workshop.run(evaluate=[task(scorer="own.py:content")])
    assert refused.value.place == "evaluate.held_out: scorer"
    record = json.loads((workshop.folder / "run" / "run.json").read_text())
    assert record["metrics"] == []  # not even the base was measured with it
    assert workshop.run(evaluate=[task(scorer="own.py:content")], override=["scorer"]).statuses == ["finished"]


def test_rows_whose_answer_is_a_bare_value_are_no_completions(workshop: Workshop) -> None:
    rows = [{"prompt": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(6)]
    (workshop.folder / "held_out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    workshop.run(evaluate=[task(scorer="math", max_new_tokens=2)])
    found = recorded(workshop)
    assert {found[f"evaluate.held_out:{name}"]["status"] for name in ("scorer", "length_caps")} == {"skipped"}


def test_what_passed_once_is_not_done_again_until_rows_cap_or_scorer_change(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    real = tasks.load_references
    monkeypatch.setattr(tasks, "load_references", lambda *given, **more: done.append(given[5]) or real(*given, **more))
    first = workshop.run(evaluate=[task()])
    again = workshop.run(sft(learning_rate=2e-2), evaluate=[task()])
    assert done == ["held_out"]
    shown = [[f for f in x.record["preflight"] if f["stage"] == "evaluate.held_out"] for x in (first, again)]
    assert shown[0] == shown[1] and len(shown[0]) == 2
    workshop.run(evaluate=[task(max_new_tokens=5)])
    workshop.run(evaluate=[task(max_new_tokens=5, scorer={"type": "length", "low": 1, "high": 9})])
    make_rows(workshop.folder / "held_out.jsonl", 6, start=40)
    workshop.run(evaluate=[task()])
    assert len(done) == 4


def test_several_refusals_are_named_together_each_with_its_cure_and_its_override(workshop: Workshop) -> None:
    (workshop.folder / "own.py").write_text(
        "def content(completions, **columns):\n    return [1.0] * len(completions)\n"
    )
    rows = [{"prompt": f"{n}?", "completion": "so it is " * 9} for n in range(8)]
    (workshop.folder / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    bad = sft(name="bad", data=[{"source": "long.jsonl"}], max_length=40, truncation="cut_completion")
    measured = [task(scorer="own.py:content", max_new_tokens=2)]
    with pytest.raises(RefusedError, match="3 checks refused this") as refused:
        workshop.run(sft(), bad, evaluate=measured)
    text = refused.value.describe()
    names = ("evaluate.held_out:length_caps", "evaluate.held_out:scorer", "bad:mask")
    for name in names:
        stage, _, check = name.rpartition(":")
        assert f"{stage}: {check}: " in text and f"--override {name}" in text
    assert text.count("    cure: ") == 3 and text.count("    expected: ") == 3
    record = json.loads((workshop.folder / "run" / "run.json").read_text())
    assert [stage["status"] for stage in record["stages"]] == ["pending", "pending"]  # the first was not trained
    done = workshop.run(sft(), bad, evaluate=measured, override=list(names))
    assert done.statuses == ["finished", "finished"] and done.record["overrides"] == list(names)
