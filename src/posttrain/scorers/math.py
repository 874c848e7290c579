r"""Mathematical answers: the one that a completion declares, in the one form that its task declares, compared exactly.

Columns of a problem:

* `answer`: the gold answer as text or a number. A GSM8K solution is read after its `####`, a text with `\boxed{}`
  inside its last box.
* `answer_form`: `value | number | integer | expression | equation | set | interval | tuple | choice | text`
  (`math_forms` says what each reads); the constructor's where a row has none.
* `unit`: what the answer is measured in (`cm^2`, `$`, `%`, `apples`). An answer may then carry that unit or none.
  Without the column the gold answer's own unit counts, and where it has none, a unit known by name is let pass.
  `50%` is one half, unless the unit is `%`: then `50` and `50%` are both read as 50 percent. Nothing is converted.
* `tolerance`: the largest absolute difference that still counts as equal, for numbers; exact where absent.
* `choices`: the options' texts in order, for `choice`.

An answer that repeats a computation of the question (`123 \cdot 457` for `Compute 123*457`) is no answer, nor is one
that offers several where one is asked, one inside the reasoning, or the last of more than three differing boxes.

Numbers are compared as exact fractions, in this process and after their cost is known. Roots, pi, variables and
equations are compared in a killable process under a CPU limit; running out of it is the policy's failure, worth 0
and in every denominator.

What it cannot judge: the working; whether an expression has the shape that was asked (factored, simplified, rounded
to two places); a unit that nobody declared; two notations for what only the question could tell apart (`1/2x`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, cast

from posttrain.core.errors import DataError, SandboxError
from posttrain.core.records import Completion, Outcome, Problem
from posttrain.sandbox.limits import JobError, Limits
from posttrain.sandbox.pool import Pool
from posttrain.scorers.endings import judge_ending
from posttrain.scorers.math_answers import EXTRACTIONS, Extraction, Found, NotFound, find_answer
from posttrain.scorers.math_forms import (
    ANSWER_FORMS,
    AnswerForm,
    Conventions,
    Hedged,
    Reading,
    is_restated,
    read,
    suggest_form,
)
from posttrain.scorers.math_gates import Tree, Unreadable, check_text
from posttrain.scorers.math_objects import Object, match
from posttrain.scorers.math_text import make_literal, write_plainly
from posttrain.scorers.math_units import PERCENT, name_unit
from posttrain.scorers.math_values import evaluate, show
from posttrain.scorers.reasoning import ANSWER_ONLY, ReasoningBlock

ALGEBRA_LIMITS = Limits(cpu_seconds=1.0, wall_seconds=30.0, memory_bytes=512 << 20, output_bytes=1 << 16)
ALGEBRA_ENTRY = "posttrain.scorers.math_algebra:decide"
BY_GOLD = "by_gold"
_FROM_GOLD: tuple[Extraction, ...] = ("hashes", "boxed")


@dataclass(frozen=True, slots=True)
class _Task:
    """A problem's own side of a comparison."""

    form: AnswerForm
    gold: Reading
    literal: str
    conventions: Conventions
    tolerance: Fraction | None
    question: str
    unit: str


@dataclass(frozen=True, slots=True)
class _Pending:
    """A comparison that needs the killable process: jobs that must all say yes; `gold` and `answer` are votes."""

    jobs: tuple[dict[str, Any], ...]
    said: str
    gold: str
    answer: str


class MathScorer:
    r"""Scores 1 for a right answer, 0 for any other (`core.protocols.Scorer`).

    Args:
        answer_form: The form of rows without a column `answer_form`; `by_gold` takes the one that each gold
            answer has by its looks (`math_forms.suggest_form`).
        extraction: Ways of declaring an answer, in order; the first that is present decides (`math_answers`).
        is_comma_decimal: Whether `1,5` is one and a half and `1.000` a thousand, in single numbers.
        reasoning: The block that is no part of the answer; an unfinished one leaves none.
        num_workers: Processes for algebra; they start with the first answer that needs one.
        limits: What one comparison in such a process may use.
        entry: The function that decides there, for a comparison of one's own.

    Raises:
        ValueError: A form or an extraction that does not exist.
    """

    name = "math"

    def __init__(
        self,
        *,
        answer_form: str = "value",
        extraction: Sequence[Extraction] = ("boxed", "hashes", "phrase"),
        is_comma_decimal: bool = False,
        reasoning: ReasoningBlock | None = ANSWER_ONLY,
        num_workers: int = 1,
        limits: Limits = ALGEBRA_LIMITS,
        entry: str = ALGEBRA_ENTRY,
    ) -> None:
        if answer_form not in (*ANSWER_FORMS, BY_GOLD):
            raise ValueError(f"answer_form is {answer_form!r}, expected one of {', '.join((*ANSWER_FORMS, BY_GOLD))}")
        if not extraction or not set(extraction) <= set(EXTRACTIONS):
            raise ValueError(f"extraction is {tuple(extraction)}, expected some of {', '.join(EXTRACTIONS)}")
        self._settings = {
            "answer_form": answer_form,
            "extraction": tuple(extraction),
            "is_comma_decimal": is_comma_decimal,
            "reasoning": reasoning,
            "num_workers": num_workers,
            "limits": limits,
            "entry": entry,
        }
        self.answer_form = answer_form
        self.extraction = tuple(extraction)
        self.is_comma_decimal = is_comma_decimal
        self.reasoning = reasoning
        self._pool = Pool(entry, num_workers=num_workers, limits=limits)

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to another process as settings: processes and locks stay here."""
        return _rebuild, (self._settings,)

    def close(self) -> None:
        """End the processes for algebra; a later `score` starts fresh ones."""
        self._pool.close()

    def score(self, items: Sequence[tuple[Problem, Completion]]) -> list[Outcome]:
        """Return one outcome for each item, in order.

        Raises:
            DataError: A problem has no gold answer that can be read in its form, or an unknown form.
            SandboxError: The processes for algebra cannot start.
        """
        tasks: dict[int, _Task] = {}
        for problem, _ in items:
            if id(problem) not in tasks:
                tasks[id(problem)] = self._read_task(problem)
        judged = [self._judge(tasks[id(problem)], completion) for problem, completion in items]
        jobs = [job for verdict in judged if isinstance(verdict, _Pending) for job in verdict.jobs]
        answers = iter(self._pool.map(jobs) if jobs else [])
        return [
            verdict if isinstance(verdict, Outcome) else _settle(verdict, [next(answers) for _ in verdict.jobs])
            for verdict in judged
        ]

    def _read_task(self, problem: Problem) -> _Task:
        """Read a problem's columns.

        Raises:
            DataError: They cannot be used.
        """
        columns = problem.columns
        text = _read_gold_text(problem)
        form = columns.get("answer_form") or self.answer_form
        if form == BY_GOLD:
            form = suggest_form(text)
        if form not in ANSWER_FORMS:
            raise _refuse(problem, f"'answer_form' is {form!r}", f"one of {', '.join(ANSWER_FORMS)}")
        form = cast(AnswerForm, form)
        unit = columns.get("unit") or ""
        choices = columns.get("choices") or ()
        if not isinstance(unit, str) or isinstance(choices, str) or not all(isinstance(c, str) for c in choices):
            raise _refuse(problem, f"'unit' is {unit!r} and 'choices' {choices!r}", "a text, and a list of texts")
        conventions = Conventions(unit, self.is_comma_decimal, tuple(choices))
        try:
            gold = read(text, form, conventions, is_gold=True)
        except Unreadable as error:
            raise _refuse(
                problem, f"the answer {show(text)} is no {form}: {error}", f"an answer of the form '{form}'"
            ) from None
        declared = name_unit(unit, also=unit) or "" if unit else gold.unit
        tolerance = _read_tolerance(problem)
        question = " ".join(str(message.get("content") or "") for message in problem.messages[-1:])
        gold = replace(gold, unit=declared)
        conventions = replace(conventions, unit=unit or gold.unit)
        return _Task(form, gold, make_literal(gold.plain), conventions, tolerance, question, declared)

    def _judge(self, task: _Task, completion: Completion) -> Outcome | _Pending:
        failure = judge_ending(completion)
        if failure is not None:
            return failure
        found = find_answer(completion.text, self.extraction, reasoning=self.reasoning)
        if isinstance(found, NotFound):
            return _wrong(found.why) if found.is_hedge else _unparsed(found.why)
        said = f"read {show(found.text)} ({found.how})"
        try:
            check_text(found.text)
            literal = make_literal(write_plainly(found.text))
            if literal == task.literal:
                return Outcome("scored", 1.0, why=f"{said}: the gold answer's own text", answer=task.literal)
            answer = read(found.text, task.form, task.conventions)
            verdict = compare(task, answer)
        except Hedged as error:
            return _wrong(f"{said}: {error}")
        except Unreadable as error:
            return _unparsed(f"{said}: {error}")
        vote = _name_vote(answer, literal)
        if isinstance(verdict, str):
            return Outcome("scored", 0.0, why=f"{said}: {verdict}", answer=vote)
        if verdict:
            return _Pending(tuple(verdict), said, task.literal, vote)
        return Outcome("scored", 1.0, why=f"{said}: equal", answer=task.literal)


def _name_vote(answer: Reading, literal: str) -> str:
    """Return the one form of a wrong answer: a number's exact value, else its text. Right ones vote for the gold's."""
    try:
        value = evaluate(answer.object[1]) if answer.object[0] == "expr" else None
    except Unreadable:
        return literal
    return str(value) if isinstance(value, Fraction) else literal


def compare(task: _Task, answer: Reading) -> str | list[dict[str, Any]]:
    """Return why an answer is wrong, or the jobs that must all say yes: none where it is right already.

    Raises:
        Unreadable: A step of the exact comparison has no value or is too costly.
    """
    gold = task.gold
    expected = f"expected {show(gold.plain)}"
    if is_restated(answer.plain, task.form, task.question):
        return "it repeats what the question asks to compute"
    if gold.label and answer.label and len(gold.label) == len(answer.label) == 1 and gold.label != answer.label:
        return f"it says {answer.label}, {expected}"
    if answer.unit and task.unit and answer.unit != task.unit and answer.unit != PERCENT:
        return f"its unit is {answer.unit}, declared is {task.unit}"
    jobs: list[dict[str, Any]] = []
    for side in answer.more:  # a chain must be true before its end counts
        verdict = _match(side, answer.object, None)
        if verdict is False:
            return "an equation that is not true"
        if verdict is None:
            jobs.append({"gold": side, "answer": answer.object})
    for target, candidate in _pair_by_percent(task, answer):
        verdict = _match(target, candidate, task.tolerance)
        if verdict:
            return jobs
        if verdict is None:
            job = {"gold": target, "answer": candidate}
            return [*jobs, {**job, "tolerance": str(task.tolerance)} if task.tolerance else job]
    hint = "; 50% is read as 1/2 unless the unit is %" if answer.unit == PERCENT != task.unit else ""
    return expected + hint


def _pair_by_percent(task: _Task, answer: Reading) -> list[tuple[Object, Object]]:
    """Return what to compare with what: a percent sign divides by 100, and a declared percent may go unsaid."""
    gold, said = task.gold.object, answer.object
    if task.unit == PERCENT:
        if answer.unit == PERCENT:
            return [(gold, said)]
        return [(gold, said), (_divide(gold), said)]
    return [(gold, _divide(said) if answer.unit == PERCENT else said)]


def _divide(thing: Object) -> Object:
    if thing[0] != "expr":
        raise Unreadable("a percent sign after what is no number")
    return ["expr", ["div", thing[1], ["num", "100"]], thing[2]]


def _match(gold: Object, answer: Object, tolerance: Fraction | None) -> bool | None:
    def equal(left: Tree, right: Tree) -> bool | None:
        if left == right:
            return True
        ours, theirs = evaluate(left), evaluate(right)
        if ours is None or theirs is None:
            return None
        if isinstance(ours, Fraction) and isinstance(theirs, Fraction):
            return abs(ours - theirs) <= (tolerance or 0)
        return ours == theirs

    return match(gold, answer, equal)


def _settle(pending: _Pending, results: list[Any | SandboxError]) -> Outcome:
    for result in results:
        if isinstance(result, JobError):
            return _explain(pending.said, result)
        if isinstance(result, SandboxError):
            raise result
    if all(results):
        return Outcome("scored", 1.0, why=f"{pending.said}: equal at every point that was tried", answer=pending.gold)
    return Outcome("scored", 0.0, why=f"{pending.said}: not equal", answer=pending.answer)


def _explain(said: str, failure: JobError) -> Outcome:
    """Return the outcome of a comparison that failed: the answer made it fail, so it is the policy's."""
    if failure.kind == "timeout":
        return Outcome("timed_out", 0.0, why=f"{said}: {failure.found}", fault="policy")
    if failure.kind == "raised" and failure.exception in ("Unreadable", "TooCostly"):
        return _unparsed(f"{said}: {failure.found}")
    return Outcome("errored", 0.0, why=f"{said}: comparing it failed: {failure.found}", fault="policy")


def _wrong(why: str) -> Outcome:
    return Outcome("scored", 0.0, why=why)


def _unparsed(why: str) -> Outcome:
    return Outcome("unparsed", 0.0, why=why, fault="policy")


def _read_gold_text(problem: Problem) -> str:
    gold = problem.columns.get("answer")
    if isinstance(gold, bool) or not isinstance(gold, str | int | float) or not str(gold).strip():
        raise _refuse(
            problem,
            f"'answer' is {gold!r}" if "answer" in problem.columns else "no column 'answer'",
            "the right answer as text or a number",
        )
    text = str(gold)
    if "####" in text or "\\boxed" in text:
        found = find_answer(text, _FROM_GOLD)
        if not isinstance(found, Found):
            raise _refuse(problem, f"'answer' holds no answer: {found.why}", "`#### 42`, or a closed box")
        text = found.text
    return text


def _read_tolerance(problem: Problem) -> Fraction | None:
    given = problem.columns.get("tolerance")
    if given is None:
        return None
    if isinstance(given, bool) or not re.fullmatch(r"\d+(?:\.\d+)?(?:e-?\d{1,3})?", str(given)):
        raise _refuse(problem, f"'tolerance' is {given!r}", "a number that is not negative")
    return Fraction(str(given))


def _refuse(problem: Problem, found: str, expected: str) -> DataError:
    return DataError(
        found,
        expected=expected,
        cure="map the columns in the task's data, columns: {answer: <your column>}, declare answer_form, or "
        "choose another scorer",
        place=problem.problem_id,
    )


def _rebuild(settings: dict[str, Any]) -> MathScorer:
    return MathScorer(**settings)
