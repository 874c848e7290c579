"""Questions that stand in a text nearly as they are: reworded, clauses in another order, words put in, names changed.

A question is the set of its pairs of neighbouring words, without the pairs that many questions share. A text holds it
nearly where one stretch of the text, at most `STRETCH` times as long as the question, holds at least a share
(`threshold`) of these pairs, and every figure and operator of the question as often as the question does. Figures must
agree because a story told with other figures is another problem: `47 + 38` is neither `47 + 39` nor `47 - 38`.

The share is counted exactly. No pair is missed and none is guessed at, as a MinHash would: a set that reaches a share
of another must hold one of its rarest members, as many as the share leaves room for and one more (prefix filtering:
Chaudhuri et al. 2006, "A primitive operator for similarity joins"; Bayardo et al. 2007). Only texts that hold such a
pair are counted through.

In terms of Jaccard's index: a stretch of n pairs that holds a share c of a question's m pairs has c m / (m + n - c m);
at the defaults, 0.5 and as long as the question, that is a third.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

DEFAULT_NEAR = 0.5
"""The share of a question's own pairs of words that a near duplicate holds."""

MIN_PAIRS = 8
"""A question of fewer own pairs is not looked for: a few words are soon alike."""

STRETCH = 1.6
"""How much longer than the question the stretch may be that holds it."""

_OPERATORS = frozenset("+-*/^=<>%")


@dataclass(frozen=True, slots=True)
class _NearQuestion:
    """One question: its own pairs of words, how many a stretch must hold, its figures, and its length in words."""

    pairs: frozenset[str]
    needed: int
    figures: Counter[str]
    length: int


class NearQuestions:
    """Questions, ready to be looked for nearly.

    Args:
        texts: The questions, one character for each word.
        codes: The character of each word.
        limit: What more questions share is boilerplate.
        threshold: The share of pairs to be held, in (0, 1]; None looks for nothing.
    """

    def __init__(self, texts: Sequence[str], codes: Mapping[str, str], limit: float, threshold: float | None) -> None:
        self._questions: dict[int, _NearQuestion] = {}
        self._anchors: defaultdict[str, list[int]] = defaultdict(list)
        self._figures = frozenset(code for word, code in codes.items() if word.isdecimal() or set(word) <= _OPERATORS)
        if threshold is None:
            return
        sets = [frozenset(map(str.__add__, text, text[1:])) for text in texts]
        counts = Counter(pair for pairs in sets for pair in pairs)
        for number, (text, pairs) in enumerate(zip(texts, sets, strict=True)):
            own = sorted((pair for pair in pairs if counts[pair] <= limit), key=lambda pair: (counts[pair], pair))
            if len(own) < MIN_PAIRS:
                continue
            needed = math.ceil(threshold * len(own))
            figures = Counter(code for code in text if code in self._figures)
            self._questions[number] = _NearQuestion(frozenset(own), needed, figures, len(text))
            for pair in own[: len(own) - needed + 1]:
                self._anchors[pair].append(number)

    def list_judged(self) -> list[int]:
        """Return the numbers of the questions that have enough pairs of their own to be looked for."""
        return list(self._questions)

    def search(self, encoded: str) -> Iterator[tuple[int, float, int, int]]:
        """Yield the questions that a text holds nearly: number, share of pairs, first word and end of the stretch.

        Args:
            encoded: The text, one character for each word; those that no question has are `\\0`.
        """
        if not self._questions:
            return
        places = list(map(str.__add__, encoded, encoded[1:]))
        held = set(places)
        numbers = {number for pair in held & self._anchors.keys() for number in self._anchors[pair]}
        for number in sorted(numbers):
            question = self._questions[number]
            if len(question.pairs & held) >= question.needed:
                found = self._find_stretch(question, encoded, places)
                if found is not None:
                    yield number, *found

    def _find_stretch(self, question: _NearQuestion, encoded: str, places: list[str]) -> tuple[float, int, int] | None:
        """Return the share that the best stretch holds and where it lies, if that is enough and has all figures."""
        wanted = [place for place, pair in enumerate(places) if pair in question.pairs]
        longest = math.ceil(STRETCH * question.length)
        inside: Counter[str] = Counter()
        best = (0, 0, 0)
        first = 0
        for place in wanted:
            inside[places[place]] += 1
            while place + 2 - wanted[first] > longest:
                left = places[wanted[first]]
                inside[left] -= 1
                if not inside[left]:
                    del inside[left]
                first += 1
            best = max(best, (len(inside), -wanted[first], place + 2), key=lambda found: found[:2])
        num_held, start, end = best[0], -best[1], best[2]
        if num_held < question.needed:
            return None
        slack = max(0, longest - (end - start))
        around = Counter(code for code in encoded[max(0, start - slack) : end + slack] if code in self._figures)
        if question.figures - around:
            return None
        return num_held / len(question.pairs), start, end
