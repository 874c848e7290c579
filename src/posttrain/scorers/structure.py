"""Form rules that a program can check: JSON, JSON Schema, regular expressions, tags, markdown, plain text, counts.

Columns: `rule`, the name of one of `RULES`, beside the columns that it reads (see each builder in `structure_rules`);
`also`, a further condition: a sentence such as "at least 15 words", a mapping with a `rule` of its own, or a list of
these. Example: `{"rule": "words_between", "min": 20, "max": 30}`. A scorer may be given one rule for every problem.

What this scorer can NOT judge: whether what stands in the form is right, or says anything. A text without a letter or
digit keeps no rule but those that ask for one exact form (`SPEAKING`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from posttrain.chat.strict_json import JsonRefusedError
from posttrain.core.errors import DataError
from posttrain.core.records import Completion, Outcome, Problem
from posttrain.scorers import structure_rules as rules
from posttrain.scorers.arguments import Arguments
from posttrain.scorers.counting import has_words
from posttrain.scorers.instruction_texts import Check
from posttrain.scorers.patterns import PatternTimeoutError
from posttrain.scorers.reasoning import ReasoningBlock, read_reply

RULES: dict[str, Callable[[Arguments], Check]] = {
    "json_object": rules.build_json_object,
    "json_array": rules.build_json_array,
    "json_schema": rules.build_json_schema,
    "regex": rules.build_regex,
    "tags": rules.build_tags,
    "think_then_answer": rules.build_tags,
    "plain_text": rules.build_plain_text,
    "markdown": rules.build_markdown,
    "no_comma": rules.build_no_comma,
    "words_between": rules.build_count("words"),
    "sentences_between": rules.build_count("sentences"),
    "lines_between": rules.build_count("lines"),
    "characters_between": rules.build_count("characters"),
    "paragraphs_between": rules.build_count("paragraphs"),
    "one_of": rules.build_options,
    "upper_case": rules.build_case(is_upper=True),
    "lower_case": rules.build_case(is_upper=False),
    "starts_with": rules.build_affix(is_start=True),
    "ends_with": rules.build_affix(is_start=False),
    "words_present": rules.build_words_present,
    "words_absent": rules.build_words_absent,
}

SPEAKING = {"json_object", "json_array", "json_schema", "regex", "one_of"}
"""Rules that nothing keeps by saying nothing: `[]`, `+` and `{}` may be right answers to them."""


class Structure:
    """Scores 1 for a text that keeps its rule, 0 for another (`core.protocols.Scorer`).

    Args:
        rule: One rule for every problem, as the columns would give it; None reads each problem's columns.
        reasoning: The block that is taken off before the rule is applied; None applies it to the whole text.

    A text on which a regular expression had to be given up is `timed_out`, the policy's failure.
    """

    name = "structure"

    def __init__(self, *, rule: Mapping[str, Any] | None = None, reasoning: ReasoningBlock | None = None) -> None:
        self._rule = None if rule is None else dict(rule)
        self._reasoning = reasoning

    def score(self, items: Sequence[tuple[Problem, Completion]]) -> list[Outcome]:
        """Return one outcome for each item, in order.

        Raises:
            DataError: A problem's rule is missing, unknown, or lacks what it reads.
        """
        return [self._score(problem, completion) for problem, completion in items]

    def _score(self, problem: Problem, completion: Completion) -> Outcome:
        columns = problem.columns if self._rule is None else self._rule
        checks = read_checks(columns, place=problem.problem_id)
        text = read_reply(completion, self._reasoning)
        if isinstance(text, Outcome):
            return text
        if columns["rule"] not in SPEAKING and not has_words(text):
            return Outcome("unparsed", 0.0, why="no letter or digit in the text", fault="policy")
        try:
            for check in checks:
                reason = check(text)
                if reason is not None:
                    return Outcome("scored", 0.0, why=reason)
        except JsonRefusedError as error:
            return Outcome("unparsed", 0.0, why=str(error), fault="policy")
        except PatternTimeoutError as error:
            return Outcome("timed_out", 0.0, why=str(error), fault="policy")
        return Outcome("scored", 1.0, why="keeps the rule")


def read_checks(columns: Mapping[str, Any], *, place: str) -> list[Check]:
    """Return the checks of a rule and of what it asks for beside it.

    Raises:
        DataError: The rule is missing, unknown, or lacks what it reads.
    """
    name = columns.get("rule")
    if not isinstance(name, str) or name not in RULES:
        raise DataError(
            f"'rule' is {name!r}" if "rule" in columns else "no column 'rule'",
            expected=f"one of {', '.join(RULES)}",
            cure="map it in the task's data, give the scorer a rule, or choose another scorer",
            place=place,
        )
    checks = [RULES[name](Arguments(columns, owner=name, place=place))]
    also = columns.get("also")
    for condition in also if isinstance(also, list | tuple) else [] if also is None else [also]:
        if isinstance(condition, Mapping):
            checks += read_checks(condition, place=place)
            continue
        check = rules.read_also(condition) if isinstance(condition, str) else None
        if check is None:
            raise DataError(
                f"'also' is {condition!r}",
                expected='a condition such as "at least 15 words", or a mapping with a rule',
                cure="write it so, or leave the row out",
                place=place,
            )
        checks.append(check)
    return checks
