"""The quality of a demonstration by rules: a score in [0, 1] with its parts, which orders rows and judges none alone.

The mean of six parts, each in [0, 1], more is better:

| part | 1 where | falls with |
| --- | --- | --- |
| `substance` | the answer has 30 words, or as many as a shorter prompt has | fewer words |
| `variety` | at least half of the answer's words (of the first 200) are different ones | repeated words |
| `own_words` | no run of four words is copied from the prompt | the share of runs that are |
| `prose` | at most 1 in 10 characters is no letter, digit, space or common mark | the share beyond that |
| `ending` | the answer ends in a mark that ends a sentence, a closed block or a figure | 0.5 where it does not |
| `case` | at most a third of the letters of the answer are capitals | the share beyond that |

It follows what rules of thumb of instruction data agree on (LIMA's and Deita's annotators, AlpaGasus' prompt: helpful,
complete, clean form), not what is right: a fluent wrong answer scores high. Scores of other languages and of code are
lower and not comparable with those of prose.
"""

from __future__ import annotations

from dataclasses import dataclass

from posttrain.data.curated_text import CuratedText, split_words

SUBSTANCE_WORDS = 30
VARIETY_WORDS = 200
_RUN = 4
_MARKS = frozenset(".,;:!?'\"()-\n")
_ENDINGS = (".", "!", "?", "`", ")", "]", "}", '"', "'", "”", "’", "。", ":", "*", ">")


@dataclass(frozen=True, slots=True)
class Quality:
    """A row's score by rules and its parts, each in [0, 1]."""

    score: float
    parts: dict[str, float]


def judge_quality(text: CuratedText) -> Quality:
    """Return the quality of a row by rules; of a row without an answer that of its prompt.

    By hand: the prompt `Name a colour.` (3 words) with the answer `Red.` has 1 word of 3 asked for, so `substance` is
    1/3, every other part is 1, and the score is (1/3 + 5) / 6.
    """
    answer = text.answer if text.has_answer else text.prompt
    words, asked = split_words(answer), split_words(text.prompt) if text.has_answer else []
    enough = min(SUBSTANCE_WORDS, max(1, len(asked))) if asked else SUBSTANCE_WORDS
    parts = {
        "substance": min(1.0, len(words) / enough),
        "variety": _measure_variety(words[:VARIETY_WORDS]),
        "own_words": _measure_own(words, asked),
        "prose": _measure_prose(answer),
        "ending": 1.0 if answer.rstrip().endswith(_ENDINGS) or answer.rstrip()[-1:].isdecimal() else 0.5,
        "case": _measure_case(answer),
    }
    return Quality(sum(parts.values()) / len(parts), parts)


def _measure_variety(words: list[str]) -> float:
    return min(1.0, 2.0 * len(set(words)) / len(words)) if words else 0.0


def _measure_own(words: list[str], asked: list[str]) -> float:
    runs = list(zip(*(words[start:] for start in range(_RUN)), strict=False))
    copied = set(zip(*(asked[start:] for start in range(_RUN)), strict=False))
    return 1.0 - sum(run in copied for run in runs) / len(runs) if runs else 1.0


def _measure_prose(text: str) -> float:
    odd = sum(not (character.isalnum() or character.isspace() or character in _MARKS) for character in text)
    return max(0.0, min(1.0, 1.0 - (odd / len(text) - 0.1) / 0.9)) if text else 0.0


def _measure_case(text: str) -> float:
    letters = [character for character in text if character.isalpha()]
    share = sum(character.isupper() for character in letters) / len(letters) if len(letters) > 10 else 0.0
    return min(1.0, max(0.0, 1.0 - (share - 1 / 3) * 1.5))
