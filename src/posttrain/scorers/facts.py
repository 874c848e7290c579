"""Facts: short answers against gold answers with aliases, and claims in free text against a knowledge base.

`ShortAnswerFacts` reads of a problem one of the columns `answers`, `gold`, `answer` (text, a number, or a list of
them), and `aliases` beside it where there is one. The whole answer must be one of them after the normalisation of
`typed_values.normalise_answer`, or equal by value as a number or date: a substring is not a match, and neither is a
sentence that holds the answer. It cannot judge a paraphrase that is no alias, which it rejects; that takes a judge.

`ClaimFacts` extracts claims by the grammar of `claims`, judges each by a knowledge base and states, parts apart:

    precision = supported / (supported + contradicted)
    coverage  = (supported + contradicted) / claims
    recall    = required facts affirmed / required facts

`required` is the column of the facts that a complete answer holds: rows of `entity`, `attribute`, and `value` where
one of several is meant. It cannot judge what the grammar does not read (counted as `unread`), nor what the knowledge
base does not hold (`unknown`); it takes its knowledge for all there is where an attribute admits one value, past tense
included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Literal

from posttrain.core.errors import DataError
from posttrain.core.records import Completion, Outcome, Problem
from posttrain.scorers.claims import JudgedClaim, extract_claims, judge_claim
from posttrain.scorers.endings import judge_ending
from posttrain.scorers.knowledge_base import KnowledgeBase
from posttrain.scorers.reasoning import ANSWER_ONLY, ReasoningBlock, read_reply, strip_reasoning
from posttrain.scorers.typed_values import Value, is_near, normalise_answer, read_value

GOLD_COLUMNS = ("answers", "gold", "answer")
Items = Sequence[tuple[Problem, Completion]]
Required = list[tuple[str, str, str | None]]


class ShortAnswerFacts:
    """Scores 1 where the whole answer is one of the gold answers, else 0 (`core.protocols.Scorer`).

    Args:
        answer_marker: The answer is what follows this text at the last line that begins with it, to the line's end; a
            completion without one, or with differing ones, is unparsed. None: the whole text is the answer.
        ignore_accents: `Pele` is `Pelé`.
        relative_tolerance: Share of the gold number by which a number may differ.
        reasoning: The block that is no part of the answer; an unfinished one is unparsed.
    """

    name = "facts"

    def __init__(
        self,
        *,
        answer_marker: str | None = None,
        ignore_accents: bool = False,
        relative_tolerance: float = 0.0,
        reasoning: ReasoningBlock | None = ANSWER_ONLY,
    ) -> None:
        if not 0.0 <= relative_tolerance < 1.0:
            raise ValueError(f"relative_tolerance must be in [0, 1), found {relative_tolerance!r}")
        self.answer_marker = answer_marker
        self.ignore_accents = ignore_accents
        self.relative_tolerance = Fraction(str(relative_tolerance))
        self.reasoning = reasoning

    def score(self, items: Items) -> list[Outcome]:
        """Return one outcome for each item, in order.

        Raises:
            DataError: A problem has no usable gold answer, or two columns of them.
        """
        gold: dict[int, list[Value]] = {}  # completions of one problem share its readings within a call
        outcomes = []
        for problem, completion in items:
            if id(problem) not in gold:
                gold[id(problem)] = [self._read(text) for text in read_gold(problem)]
            outcomes.append(self._score(gold[id(problem)], completion))
        return outcomes

    def _read(self, text: str) -> Value:
        value = read_value(text)
        if not self.ignore_accents:
            return value
        return Value(normalise_answer(text, ignore_accents=True), value.quantity, value.date)

    def _score(self, gold: list[Value], completion: Completion) -> Outcome:
        failure = judge_ending(completion)
        if failure is not None:
            return failure
        answer = self._find_answer(completion.text)
        if isinstance(answer, Outcome):
            return answer
        found = self._read(answer)
        keys = found.keys()
        for value in gold:
            if not keys.isdisjoint(value.keys()):
                return Outcome("scored", 1.0, why="one of the gold answers", answer=gold[0].text)
            if self.relative_tolerance and is_near(found.quantity, value.quantity, relative=self.relative_tolerance):
                return Outcome("scored", 1.0, why="within the tolerance of a gold answer", answer=gold[0].text)
        shown = found.text if len(found.text) <= 80 else found.text[:80] + "..."
        why = f"{shown!r} is not {gold[0].text!r} nor one of {len(gold) - 1} others"
        return Outcome("scored", 0.0, why=why, answer=found.text)

    def _find_answer(self, text: str) -> str | Outcome:
        answer = strip_reasoning(text, self.reasoning)
        if answer is None:
            return Outcome("unparsed", 0.0, why="unfinished reasoning", fault="policy")
        if self.answer_marker is not None:
            lines = [line.strip() for line in answer.splitlines()]
            marked = [line.removeprefix(self.answer_marker) for line in lines if line.startswith(self.answer_marker)]
            if len({normalise_answer(line) for line in marked}) != 1:
                found = f"{len(marked)} differing answers" if marked else "no answer"
                return Outcome("unparsed", 0.0, why=f"{found} after {self.answer_marker!r}", fault="policy")
            answer = marked[-1]
        if not answer.strip():
            return Outcome("unparsed", 0.0, why="no answer after the reasoning", fault="policy")
        return answer


def read_gold(problem: Problem) -> list[str]:
    """Return a problem's gold answers and their aliases as text, at least one.

    Raises:
        DataError: There is none, one is empty or neither text nor a number, or two columns hold them.
    """
    present = [name for name in GOLD_COLUMNS if name in problem.columns]
    if len(present) != 1:
        raise DataError(
            f"the columns {' and '.join(present)} both hold gold answers" if present else "no column of gold answers",
            expected=f"one of {', '.join(GOLD_COLUMNS)}, and 'aliases' beside it where there are any",
            cure="map it in the task's data, columns: {answers: <your column>}, and leave the others out",
            place=problem.problem_id,
        )
    found = []
    for name in (present[0], "aliases"):
        cell = problem.columns.get(name, [])
        for answer in cell if isinstance(cell, list | tuple) else [cell]:
            if isinstance(answer, bool) or not isinstance(answer, str | int | float) or not str(answer).strip():
                raise DataError(
                    f"'{name}' holds {answer!r}",
                    expected="right answers as text or numbers",
                    cure="correct the row, or leave it out",
                    place=problem.problem_id,
                )
            found.append(str(answer))
    if not found:
        raise DataError(
            f"'{present[0]}' is empty",
            expected="at least one right answer",
            cure="leave the row out",
            place=problem.problem_id,
        )
    return found


ValueRule = Literal["precision", "all_or_nothing", "f1"]


class ClaimFacts:
    """Scores the claims of a completion by a knowledge base (`core.protocols.Scorer`).

    Args:
        knowledge_base: What is known.
        value: `precision`; `all_or_nothing`, 1 where something is supported and nothing contradicted (nor unknown,
            with an `unknown_weight`); or `f1`, the harmonic mean of precision and recall, which needs `required`.
            Precision alone is best served by one easy claim, so it suits short answers; `f1` suits long ones (Wei et
            al. 2024, arXiv:2403.18802).
        unknown_weight: What an unknown claim counts in precision's denominator beside a contradicted one, in [0, 1].
        count_negations: Whether a supported denial (`The capital is not Sydney`) counts as supported. Such claims are
            endless, so by default they are only counted apart; one that is contradicted always counts.
        reasoning: The block that is no part of the answer; an unfinished one is unparsed.

    A completion without a claim that the grammar reads is unparsed; without a decidable one its value is 0.
    """

    name = "facts/claims"

    def __init__(
        self,
        *,
        knowledge_base: KnowledgeBase,
        value: ValueRule = "precision",
        unknown_weight: float = 0.0,
        count_negations: bool = False,
        reasoning: ReasoningBlock | None = ANSWER_ONLY,
    ) -> None:
        if value not in ("precision", "all_or_nothing", "f1"):
            raise ValueError(f"value must be precision, all_or_nothing or f1, found {value!r}")
        if not 0.0 <= unknown_weight <= 1.0:
            raise ValueError(f"unknown_weight must be in [0, 1], found {unknown_weight!r}")
        self.knowledge_base = knowledge_base
        self.value = value
        self.unknown_weight = unknown_weight
        self.count_negations = count_negations
        self.reasoning = reasoning

    def score(self, items: Items) -> list[Outcome]:
        """Return one outcome for each item, in order.

        Raises:
            DataError: A problem's `required` facts cannot be used, or `value` is `f1` and there are none.
        """
        return [self._score(problem, completion) for problem, completion in items]

    def _score(self, problem: Problem, completion: Completion) -> Outcome:
        required = self._read_required(problem)
        text = read_reply(completion, self.reasoning)
        if isinstance(text, Outcome):
            return text
        extraction = extract_claims(text, self.knowledge_base)
        judged = [judge_claim(claim, self.knowledge_base) for claim in extraction.claims]
        if not judged:
            why = f"no claim in the grammar ({extraction.num_unread} sentences not read)"
            return Outcome("unparsed", 0.0, why=why, fault="policy", parts={"unread": float(extraction.num_unread)})
        parts = self._count(judged)
        parts["unread"] = float(extraction.num_unread)
        if required is not None:
            parts["recall"] = self._recall(required, judged)
        return Outcome("scored", self._compute_value(parts), why=_explain(judged), parts=parts)

    def _count(self, judged: Sequence[JudgedClaim]) -> dict[str, float]:
        denials = sum(item.claim.is_negated and item.verdict == "supported" for item in judged)
        numbers = {
            verdict: sum(item.verdict == verdict for item in judged)
            for verdict in ("supported", "contradicted", "unknown")
        }
        decidable = numbers["supported"] + numbers["contradicted"]
        if not self.count_negations:
            numbers["supported"] -= denials
        weight = numbers["supported"] + numbers["contradicted"]
        return {
            "claims": float(len(judged)),
            **{verdict: float(number) for verdict, number in numbers.items()},
            "supported_denials": float(denials),
            "precision": numbers["supported"] / weight if weight else 0.0,
            "coverage": decidable / len(judged),
        }

    def _compute_value(self, parts: Mapping[str, float]) -> float:
        unknown = self.unknown_weight * parts["unknown"]
        if self.value == "all_or_nothing":
            return float(parts["supported"] > 0 and parts["contradicted"] + unknown == 0)
        weight = parts["supported"] + parts["contradicted"] + unknown
        precision = parts["supported"] / weight if weight else 0.0
        if self.value == "precision":
            return precision
        total = precision + parts["recall"]
        return 2 * precision * parts["recall"] / total if total else 0.0

    def _read_required(self, problem: Problem) -> Required | None:
        """Return the required facts as keys and, where one value is meant, its text."""
        rows = problem.columns.get("required")
        if rows is None and self.value != "f1":
            return None
        if not isinstance(rows, list) or not rows:
            found = f"'required' is {rows!r}" if rows is not None else "no column 'required'"
            raise self._refuse(problem, found)
        facts: Required = []
        for row in rows:
            cells = [row.get(name) if isinstance(row, Mapping) else None for name in ("entity", "attribute", "value")]
            entity = self.knowledge_base.find_entity(str(cells[0]))
            attribute = self.knowledge_base.find_attribute(str(cells[1]))
            if entity is None or attribute is None or not self.knowledge_base.find_values(entity, attribute):
                raise self._refuse(problem, f"the knowledge base does not hold {row!r}")
            value = None if cells[2] is None else str(cells[2])
            if value is not None and self.knowledge_base.judge(entity, attribute, value)[0] != "supported":
                raise self._refuse(problem, f"the knowledge base does not support {row!r}")
            facts.append((entity, attribute, value))
        return facts

    def _refuse(self, problem: Problem, found: str) -> DataError:
        return DataError(
            found,
            expected="a list of {entity, attribute} or {entity, attribute, value} that the knowledge base holds",
            cure="correct the column, or choose value: precision and leave it out",
            place=problem.problem_id,
        )

    def _recall(self, required: Required, judged: Sequence[JudgedClaim]) -> float:
        affirmed: dict[tuple[str | None, str | None], list[JudgedClaim]] = {}
        for item in judged:
            if item.verdict == "supported" and not item.claim.is_negated:
                affirmed.setdefault((item.entity, item.attribute), []).append(item)
        return sum(
            any(
                value is None or self._is_value(item, attribute, value)
                for item in affirmed.get((entity, attribute), [])
            )
            for entity, attribute, value in required
        ) / len(required)

    def _is_value(self, item: JudgedClaim, attribute: str, value: str) -> bool:
        found, wanted = (self.knowledge_base.read(attribute, text) for text in (item.claim.value, value))
        return found is not None and wanted is not None and not found.keys().isdisjoint(wanted.keys())


def _explain(judged: Sequence[JudgedClaim]) -> str:
    wrong = [item for item in judged if item.verdict == "contradicted"]
    if wrong:
        return f"contradicted: {wrong[0].claim.entity}: {wrong[0].why}"
    unknown = [item for item in judged if item.verdict == "unknown"]
    return f"unknown: {unknown[0].why}" if unknown else "every claim is supported"
