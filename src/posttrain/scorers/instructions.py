"""IFEval and IFBench: kinds of verifiable instructions, strict and loose, by prompt and by instruction.

Source: Zhou et al. 2023, "Instruction-Following Evaluation for Large Language Models", arXiv 2311.07911. Columns, as
published: `instruction_id_list` (ids such as `punctuation:no_comma`), `kwargs` (one mapping for each id; nulls count as
absent), `key` (shown in errors), `prompt` (to know an echo by; the last message where it is missing). IFBench (Pyatkin
et al. 2025, arXiv 2507.02833) has the same columns and 58 other kinds (`instruction_bench`); a row with a kind that is
not checked is not applicable.

*Strict*: the response as it is. *Loose*: any of its eight variants (without its first line, its last, both; each with
and without asterisks) follows. A prompt is followed if each of its instructions is.

What differs from the published checkers, each time to the strict side: a response without a letter or digit, or with
the letters and digits of the prompt and no others, follows nothing; a text whose language cannot be told is in none;
several of the constrained answers at once are none; repeating the request without an answer is no answer; JSON is read
strictly. Sentences are split by the rules of `sentences`, not by NLTK's punkt, whose data would have to be
downloaded.

What this scorer can NOT judge: whether the response answers the request. Rewarded alone, it teaches text that follows
the form and says nothing; put a judge or a reward model beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from posttrain.core.errors import DataError
from posttrain.core.records import Completion, Outcome, Problem
from posttrain.scorers import instruction_forms as forms
from posttrain.scorers import instruction_texts as texts
from posttrain.scorers.arguments import Arguments
from posttrain.scorers.counting import has_words
from posttrain.scorers.endings import judge_ending
from posttrain.scorers.instruction_bench import BENCH_CONSTRAINTS, UNCHECKED
from posttrain.scorers.instruction_texts import Check
from posttrain.scorers.reasoning import ReasoningBlock, strip_reasoning

Value = Literal["prompt_strict", "prompt_loose", "instruction_strict", "instruction_loose"]

CONSTRAINTS: dict[str, Callable[[Arguments], Check]] = {
    "keywords:existence": texts.build_keywords_exist,
    "keywords:frequency": texts.build_keyword_frequency,
    "keywords:forbidden_words": texts.build_forbidden_words,
    "keywords:letter_frequency": texts.build_letter_frequency,
    "language:response_language": texts.build_response_language,
    "length_constraints:number_sentences": forms.build_number_sentences,
    "length_constraints:number_paragraphs": forms.build_number_paragraphs,
    "length_constraints:number_words": forms.build_number_words,
    "length_constraints:nth_paragraph_first_word": forms.build_paragraph_first_word,
    "detectable_content:number_placeholders": forms.build_placeholders,
    "detectable_content:postscript": forms.build_postscript,
    "detectable_format:number_bullet_lists": forms.build_bullets,
    "detectable_format:constrained_response": forms.build_constrained_response,
    "detectable_format:number_highlighted_sections": forms.build_highlights,
    "detectable_format:multiple_sections": forms.build_sections,
    "detectable_format:json_format": forms.build_json_format,
    "detectable_format:title": forms.build_title,
    "combination:two_responses": forms.build_two_responses,
    "combination:repeat_prompt": texts.build_repeat_prompt,
    "startend:end_checker": texts.build_end_phrase,
    "startend:quotation": texts.build_quotation,
    "change_case:capital_word_frequency": texts.build_capital_words,
    "change_case:english_capital": texts.build_english_capitals,
    "change_case:english_lowercase": texts.build_english_lowercase,
    "punctuation:no_comma": texts.build_no_comma,
}
"""Each id of IFEval and the builder of its check."""
KNOWN = CONSTRAINTS | BENCH_CONSTRAINTS


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction of a prompt: its published id and the check built from its arguments."""

    instruction_id: str
    check: Check


class InstructionFollowing:
    """Scores the share of a prompt's instructions that are followed, or whether all are (`core.protocols.Scorer`).

    Args:
        value: Which of the four accuracies is the value; the others are parts. `prompt_*` is 0 or 1,
            `instruction_*` a fraction in [0, 1].
        reasoning: The block that is taken off a response before it is judged; None judges the whole text.

    Parts of an outcome: `prompt_strict`, `prompt_loose` (0 or 1), `followed_strict`, `followed_loose`, `instructions`
    (counts), and `<position>:<id>` (1 strict, 0.5 loose only, 0 neither). A response that was cut off, is empty or
    whose reasoning does not end follows nothing, and its instructions stay in the counts.

    Raises:
        ValueError: An unknown `value`.
    """

    name = "instructions"

    def __init__(self, *, value: Value = "prompt_strict", reasoning: ReasoningBlock | None = None) -> None:
        if value not in get_args(Value):
            raise ValueError(f"value is one of {', '.join(get_args(Value))}, found {value!r}")
        self._value = value
        self._reasoning = reasoning

    def score(self, items: Sequence[tuple[Problem, Completion]]) -> list[Outcome]:
        """Return one outcome for each item, in order.

        Raises:
            DataError: A problem's columns are missing or malformed, or name an instruction that is not known.
        """
        return [self._score(problem, completion) for problem, completion in items]

    def _score(self, problem: Problem, completion: Completion) -> Outcome:
        unchecked = find_unchecked(problem)
        if unchecked:
            return Outcome("not_applicable", 0.0, why=f"{unchecked[0]} asks for {UNCHECKED[unchecked[0]]}")
        instructions = read_instructions(problem)
        failure = judge_ending(completion)
        if failure is None:
            response = strip_reasoning(completion.text, self._reasoning)
            if response is None:
                failure = Outcome("unparsed", 0.0, why="the reasoning block does not end, or not once", fault="policy")
            elif not has_words(response):
                failure = Outcome("unparsed", 0.0, why="no letter or digit in the response", fault="policy")
            elif _fold(response) == _fold(_find_prompt(problem)) and not _asks_for_echo(instructions):
                failure = Outcome("unparsed", 0.0, why="the prompt again, and nothing else", fault="policy")
            else:
                return self._judge(instructions, response)
        if failure.fault == "harness":
            return failure
        return replace(failure, parts=_build_parts(instructions, [0.0] * len(instructions)))

    def _judge(self, instructions: Sequence[Instruction], response: str) -> Outcome:
        variants = list_variants(response)
        marks, reasons = [], []
        for instruction in instructions:
            reason = instruction.check(response)
            is_loose = reason is None or any(instruction.check(text) is None for text in variants)
            marks.append(1.0 if reason is None else 0.5 if is_loose else 0.0)
            if reason is not None:
                reasons.append(f"{instruction.instruction_id}: {reason}")
        parts = _build_parts(instructions, marks)
        shares = {
            "prompt_strict": parts["prompt_strict"],
            "prompt_loose": parts["prompt_loose"],
            "instruction_strict": parts["followed_strict"] / len(instructions),
            "instruction_loose": parts["followed_loose"] / len(instructions),
        }
        return Outcome("scored", shares[self._value], why="; ".join(reasons) or "all followed", parts=parts)


def list_variants(response: str) -> list[str]:
    """Return the variants of the loose reading that differ from the response and hold a word, without duplicates."""
    lines = response.split("\n")
    cut = [response, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    variants = dict.fromkeys([*cut, *(text.replace("*", "") for text in cut)])
    return [text for text in variants if text != response and has_words(text)]


def find_unchecked(problem: Problem) -> list[str]:
    """Return the known instructions of a problem that no check can tell (`instruction_bench.UNCHECKED`)."""
    ids = problem.columns.get("instruction_id_list")
    return [name for name in ids if name in UNCHECKED] if isinstance(ids, list | tuple) else []


def _find_prompt(problem: Problem) -> str:
    given = problem.columns.get("prompt")
    return str(problem.messages[-1].get("content") or "" if given is None and problem.messages else given or "")


def _asks_for_echo(instructions: Sequence[Instruction]) -> bool:
    """Whether the prompt asks for itself or a part of it, and nothing else."""
    return any(instruction.instruction_id.startswith("repeat:") for instruction in instructions)


def read_instructions(problem: Problem) -> list[Instruction]:
    """Return a problem's instructions, built from the published columns.

    Raises:
        DataError: A column is missing or malformed, or an id is not known.
    """
    ids, arguments = problem.columns.get("instruction_id_list"), problem.columns.get("kwargs")
    place = problem.problem_id + (f" (key {problem.columns['key']})" if "key" in problem.columns else "")
    if (
        not isinstance(ids, list | tuple)
        or not isinstance(arguments, list | tuple)
        or not len(ids) == len(arguments) > 0
        or not all(isinstance(values, Mapping) for values in arguments)
    ):
        raise DataError(
            f"'instruction_id_list' is {ids!r} and 'kwargs' {arguments!r}",
            expected="two lists of the same length, at least 1: ids, and a mapping of arguments for each",
            cure="map IFEval's published columns, or choose another scorer",
            place=place,
        )
    instructions = []
    for name, values in zip(ids, arguments, strict=True):
        if name not in KNOWN:
            raise DataError(
                f"instruction {name!r} " + ("cannot be checked" if name in UNCHECKED else "is not known"),
                expected=f"one of IFEval's {len(CONSTRAINTS)} or IFBench's: {', '.join(sorted(KNOWN))}",
                cure="leave the row out, or score it with another scorer",
                place=place,
            )
        instructions.append(Instruction(name, KNOWN[name](Arguments(values, owner=name, place=place))))
    return instructions


def compute_accuracies(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Return the paper's four accuracies in [0, 1] over counted outcomes of `InstructionFollowing`.

    Instruction-level accuracies divide all instructions followed by all instructions, as in the paper: not a mean of
    the prompts' fractions.

    Raises:
        ValueError: No outcome counts.
    """
    counted = [outcome.parts for outcome in outcomes if outcome.is_counted]
    if not counted:
        raise ValueError("no outcome counts: nothing to divide by")
    total = sum(parts["instructions"] for parts in counted)
    return {
        "prompt_strict": sum(parts["prompt_strict"] for parts in counted) / len(counted),
        "prompt_loose": sum(parts["prompt_loose"] for parts in counted) / len(counted),
        "instruction_strict": sum(parts["followed_strict"] for parts in counted) / total,
        "instruction_loose": sum(parts["followed_loose"] for parts in counted) / total,
    }


def _fold(text: str) -> str:
    """Return the letters and digits of a text, without case."""
    return "".join(filter(str.isalnum, text.casefold()))


def _build_parts(instructions: Sequence[Instruction], marks: Sequence[float]) -> dict[str, float]:
    strict, loose = sum(mark == 1.0 for mark in marks), sum(mark >= 0.5 for mark in marks)
    return {
        "prompt_strict": float(strict == len(marks)),
        "prompt_loose": float(loose == len(marks)),
        "followed_strict": float(strict),
        "followed_loose": float(loose),
        "instructions": float(len(marks)),
        **{
            f"{number}:{x.instruction_id}": mark
            for number, (x, mark) in enumerate(zip(instructions, marks, strict=True))
        },
    }
