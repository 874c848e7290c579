"""Shaping terms: length, language and repetition, each a scorer with bounded values, to be added to a real reward.

Columns: `language` (a code such as `de`) where `LanguageMatch` is not given one; nothing else. A completion that failed
(cut off, empty) gets its term's lowest value, not 0: where 0 is the best value, being cut off must not earn it.

What these scorers can NOT judge: whether a completion is right or any good. Each is exploited when it is rewarded
alone, and a weight that is too large teaches the form for its own sake.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

from posttrain.core.errors import DataError
from posttrain.core.protocols import Scorer
from posttrain.core.records import Completion, Outcome, Problem
from posttrain.scorers.counting import count_spaced_words
from posttrain.scorers.endings import judge_ending
from posttrain.scorers.language import detect_language, list_languages
from posttrain.scorers.reasoning import ReasoningBlock, read_reply
from posttrain.scorers.repetition import compute_compression_gain, compute_longest_repeat, compute_repeated_fraction

Items = Sequence[tuple[Problem, Completion]]
Unit = Literal["tokens", "characters", "words"]
Measure = Literal["ngrams", "longest_repeat", "compression"]
MAX_UNITS = 50_000
"""What is read of a completion when repeats are looked for."""
_CODE_BLOCK = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


class LengthBand:
    """Scores 1 within a band of lengths, falling linearly to 0 beside it (`core.protocols.Scorer`).

    Formula: `max(0, 1 - d / slope)`, where d is the distance from `[low, high]` (0 within it); a `slope` of None gives
    0 for any distance. Values in [0, 1].

    Args:
        low: The shortest length that is right.
        high: The longest.
        slope: The distance at which the value reaches 0.
        unit: `tokens` as drawn, the stop token among them; `characters` or `words` of the stripped text.

    Raises:
        ValueError: `low` exceeds `high`, or a number is out of its range.
    """

    name = "length_band"

    def __init__(self, *, low: int, high: int, slope: float | None = None, unit: Unit = "tokens") -> None:
        _check_unit(unit)
        if not 0 <= low <= high or (slope is not None and not 0 < slope < math.inf):
            raise ValueError(f"0 <= low <= high and a positive slope, found {low}, {high} and {slope}")
        self._low, self._high, self._slope, self._unit = low, high, slope, unit

    def score(self, items: Items) -> list[Outcome]:
        """Return one outcome for each item, in order."""
        return [self._score(completion) for _, completion in items]

    def _score(self, completion: Completion) -> Outcome:
        failure = _judge_length(completion, self._unit, lowest=0.0)
        if failure is not None:
            return failure
        length = count_units(completion, self._unit)
        distance = max(0, self._low - length, length - self._high)
        value = float(distance == 0) if self._slope is None else max(0.0, 1.0 - distance / self._slope)
        return Outcome("scored", value, why=f"{length} {self._unit}", parts={self._unit: float(length)})


class OverlongPenalty:
    """Scores 0 up to a length and then falls linearly to -1 (`core.protocols.Scorer`).

    Formula, with L = `max_length` and c = `cache`: 0 where |y| <= L - c; `((L - c) - |y|) / c` up to L; -1 beyond, and
    for what was cut off. Values in [-1, 0]. Source: DAPO (Yu et al. 2025, arXiv 2503.14476), equation 13.

    Args:
        max_length: Where the penalty is whole, in units.
        cache: How many units before that it begins.
        unit: See `LengthBand`.

    Raises:
        ValueError: `cache` is not within `1..max_length`.
    """

    name = "overlong_penalty"

    def __init__(self, *, max_length: int, cache: int, unit: Unit = "tokens") -> None:
        _check_unit(unit)
        if not 1 <= cache <= max_length:
            raise ValueError(f"1 <= cache <= max_length, found {cache} and {max_length}")
        self._max_length, self._cache, self._unit = max_length, cache, unit

    def score(self, items: Items) -> list[Outcome]:
        """Return one outcome for each item, in order."""
        return [self._score(completion) for _, completion in items]

    def _score(self, completion: Completion) -> Outcome:
        failure = _judge_length(completion, self._unit, lowest=-1.0)
        if failure is not None:
            return failure
        length = count_units(completion, self._unit)
        excess = length - (self._max_length - self._cache)
        value = -min(1.0, max(0.0, excess / self._cache)) or 0.0  # `or`: no negative zero
        return Outcome("scored", value, why=f"{length} {self._unit}", parts={self._unit: float(length)})


class CosineLength:
    """Scores right completions higher the shorter, wrong ones higher the longer they are (`core.protocols.Scorer`).

    Formula, with t = |y| / `max_length` and the pair (r0, r1) of `right` or `wrong`:
    `r1 + (r0 - r1) * (1 + cos(pi * t)) / 2` for t < 1, else `exceeded`. Source: Yeo et al. 2025, arXiv 2502.03373.

    Args:
        correctness: The scorer that says what is right: a value of at least `threshold`.
        max_length: Where the curves end, in units.
        right: The values of a right completion at lengths 0 and `max_length`.
        wrong: Those of a wrong one, among them what `correctness` calls a failure of the policy's.
        exceeded: The value at `max_length` and beyond, and of what was cut off or is empty.
        threshold: What `correctness` must reach.
        unit: See `LengthBand`.

    What `correctness` says is the harness's failure, or not applicable, is passed on as it is.

    Raises:
        ValueError: `max_length` is not positive, or a value is not finite.
    """

    name = "cosine_length"

    # many parameters: the four ends of the two curves are the term
    def __init__(
        self,
        *,
        correctness: Scorer,
        max_length: int,
        right: tuple[float, float] = (1.0, 0.5),
        wrong: tuple[float, float] = (-1.0, -0.5),
        exceeded: float = -1.0,
        threshold: float = 1.0,
        unit: Unit = "tokens",
    ) -> None:
        _check_unit(unit)
        if max_length < 1 or not all(map(math.isfinite, [*right, *wrong, exceeded, threshold])):
            raise ValueError(
                f"a positive max_length and finite values, found {max_length}, {right}, {wrong}, {exceeded}"
            )
        self.correctness = correctness
        self._max_length, self._unit, self._threshold = max_length, unit, threshold
        self._right, self._wrong, self._exceeded = right, wrong, exceeded

    def score(self, items: Items) -> list[Outcome]:
        """Return one outcome for each item, in order.

        Raises:
            DataError: `correctness` raised it.
        """
        judged = self.correctness.score(items)
        return [self._score(item[1], outcome) for item, outcome in zip(items, judged, strict=True)]

    def _score(self, completion: Completion, judged: Outcome) -> Outcome:
        if not judged.is_counted:
            return judged
        failure = _judge_length(completion, self._unit, lowest=self._exceeded)
        if failure is not None:
            return failure
        length = count_units(completion, self._unit)
        is_right = judged.value >= self._threshold
        first, last = self._right if is_right else self._wrong
        share = length / self._max_length
        value = last + (first - last) * (1.0 + math.cos(math.pi * share)) / 2.0 if share < 1.0 else self._exceeded
        why = f"{'right' if is_right else 'wrong'} in {length} {self._unit}"
        return Outcome("scored", value, why=why, parts={self._unit: float(length), "is_right": float(is_right)})


class LanguageMatch:
    """Scores the share of a text that is in the language declared for it (`core.protocols.Scorer`).

    Formula: 1 where the whole text's most probable language is the declared one, else 0; with `by_paragraph` the
    letters in paragraphs of which that is true, divided by all letters. Values in [0, 1]. Languages are told by
    `language.detect_language`; code blocks are left out. `zh` takes `zh-cn` and `zh-tw`.

    Args:
        language: One language for every problem; None reads each problem's `language`.
        by_paragraph: Whether paragraphs are judged apart, which finds a language that is mixed in.
        reasoning: The block that is taken off first; None judges it too.

    Raises:
        ValueError: `language` is none that can be told.
    """

    name = "language"

    def __init__(
        self, *, language: str | None = None, by_paragraph: bool = False, reasoning: ReasoningBlock | None = None
    ) -> None:
        if language is not None and not _is_known(language):
            raise ValueError(f"one of {', '.join(list_languages())}, found {language!r}")
        self._language, self._by_paragraph, self._reasoning = language, by_paragraph, reasoning

    def score(self, items: Items) -> list[Outcome]:
        """Return one outcome for each item, in order.

        Raises:
            DataError: A problem's `language` is missing or none that can be told.
        """
        return [self._score(problem, completion) for problem, completion in items]

    def _score(self, problem: Problem, completion: Completion) -> Outcome:
        language = self._language or _read_language(problem)
        text = read_reply(completion, self._reasoning)
        if isinstance(text, Outcome):
            return text
        text = _CODE_BLOCK.sub("\n\n", text)
        pieces = re.split(r"\n[ \t]*\n", text) if self._by_paragraph else [text]
        letters = [sum(map(str.isalpha, piece)) for piece in pieces]
        if not sum(letters):
            return Outcome("unparsed", 0.0, why="no letters outside code", fault="policy")
        found = [(detect_language(piece) or "", count) for piece, count in zip(pieces, letters, strict=True) if count]
        right = sum(count for name, count in found if _is_language(name, language))
        others = sorted({name or "unknown" for name, _ in found if not _is_language(name, language)})
        why = f"in {language}" if not others else f"in {', '.join(others[:5])}, where {language} was declared"
        return Outcome("scored", right / sum(letters), why=why)


class Repetition:
    """Scores 1 for a text that repeats itself no more than is allowed, falling to 0 (`core.protocols.Scorer`).

    Formula: `1 - max(0, m - allowed) / (1 - allowed)`, where m in [0, 1] is one of `repetition`'s measures: `ngrams`
    (the fraction of n-grams that are repeats), `longest_repeat` (the longest repeated run as a share of the text),
    `compression` (what DEFLATE saves). Values in [0, 1]; all three measures are parts.

    Args:
        measure: Which of them is the value.
        allowed: How much of it costs nothing: about 0.1 for 4-grams of prose, 0.6 for compression.
        n: The length of an n-gram.
        unit: What a sequence is made of: words between spaces, the tokens drawn, or characters.

    Raises:
        ValueError: A setting is out of its range.
    """

    name = "repetition"

    def __init__(self, *, measure: Measure = "ngrams", allowed: float = 0.1, n: int = 4, unit: Unit = "words") -> None:
        _check_unit(unit)
        if measure not in get_args(Measure) or not 0.0 <= allowed < 1.0 or n < 1:
            raise ValueError(f"a known measure, 0 <= allowed < 1, n >= 1; found {measure!r}, {allowed}, {n}")
        self._measure, self._allowed, self._n, self._unit = measure, allowed, n, unit

    def score(self, items: Items) -> list[Outcome]:
        """Return one outcome for each item, in order."""
        return [self._score(completion) for _, completion in items]

    def _score(self, completion: Completion) -> Outcome:
        failure = _judge_length(completion, self._unit, lowest=0.0)
        if failure is not None:
            return failure
        units = _list_units(completion, self._unit)
        parts = {
            "ngrams": compute_repeated_fraction(units, self._n),
            "longest_repeat": compute_longest_repeat(units),
            "compression": compute_compression_gain(completion.text),
        }
        found = parts[self._measure]
        value = 1.0 - max(0.0, found - self._allowed) / (1.0 - self._allowed)
        return Outcome("scored", value, why=f"{self._measure} {found:.3f}", parts=parts)


def count_units(completion: Completion, unit: Unit) -> int:
    """Return a completion's length in a unit."""
    if unit == "tokens":
        return len(completion.ids)
    text = completion.text.strip()
    return len(text) if unit == "characters" else count_spaced_words(text)


def _list_units(completion: Completion, unit: Unit) -> Sequence[int | str]:
    if unit == "tokens":
        ids: list[int] = completion.ids[:MAX_UNITS].tolist()
        return ids
    return completion.text[:MAX_UNITS] if unit == "characters" else completion.text.split()[:MAX_UNITS]


def _judge_length(completion: Completion, unit: Unit, *, lowest: float) -> Outcome | None:
    failure = judge_ending(completion)
    if failure is not None:
        return failure if failure.fault == "harness" else replace(failure, value=lowest)
    if unit == "tokens" and not len(completion.ids):
        return Outcome("errored", 0.0, why="the sampler gave no token ids: count characters or words", fault="harness")
    return None


def _check_unit(unit: str) -> None:
    if unit not in get_args(Unit):
        raise ValueError(f"unit is one of {', '.join(get_args(Unit))}, found {unit!r}")


def _read_language(problem: Problem) -> str:
    language = problem.columns.get("language")
    if not isinstance(language, str) or not _is_known(language):
        raise DataError(
            f"'language' is {language!r}" if "language" in problem.columns else "no column 'language'",
            expected=f"one of {', '.join(list_languages())}",
            cure="map it in the task's data, or give the scorer a language",
            place=problem.problem_id,
        )
    return language


def _is_known(language: str) -> bool:
    return any(_is_language(name, language) for name in list_languages())


def _is_language(found: str, declared: str) -> bool:
    return found == declared or found.startswith(f"{declared}-")
