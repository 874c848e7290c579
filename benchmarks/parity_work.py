"""What every engine is given in `benchmarks.greedy_parity`: raw texts of every kind, prompts, limits."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

TEXT_KINDS: dict[str, str] = {
    "prose": "The cat eats 12 kippers near the river, then sleeps until noon.",
    "blank first": " one blank first",
    "blanks at line starts": "first\n  second\n    third\n x",
    "double blanks": "two  blanks, three   blanks,     five",
    "blanks last": "ends in blanks   ",
    "newlines": "one\n\ntwo\n\n\nthree\n",
    "newline first": "\nfirst",
    "carriage returns": "one\r\ntwo\rthree",
    "tabs": "\tindented\n\t\ttwice\tinside",
    "digits": "0 12 345 67890 3.14 -7 1,000,000 1e-9 007",
    "accents": "na\u00efve caf\u00e9 \u00c5ngstr\u00f6m e\u0301",
    "other scripts": "\u65e5\u672c\u8a9e \u0440\u0443\u0441\u0441\u043a\u0438\u0439 "
    "\u0627\u0644\u0639\u0631\u0628\u064a\u0629",
    "emoji": "\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467 ok",
    "uncommon blanks": "a\u00a0b\u2003c\u200bd\u3000e\u2028f",
    "control characters": "a\x01b\x1fc\x7fd\x00e",
    "full width": "\uff21\uff22\uff23 \ufb01 \u2460",
    "replaced blank": "a\u2581b \u2581 c",
    "byte names": "<0x41> <0x0A>",
    "control tokens": "<s>a</s> b<pad><unk>",
    "broken control tokens": "< s> <|x|> </ s> <s",
    "punctuation": "--- ... !!! ??? === +++ '\"`~ @#$%^&*()[]{}<>|\\/",
    "code": "def f(x):\n    if x != 0:\n        return x ** 2  # square\n",
    "json": '{"key": [1, 2.5, null], "a": {"b": "c\\n"}}',
    "long run": "a" * 70 + "-" * 37 + " " * 19,
    "mixed case": "iPhone THERE There thEre wORDs",
    "empty": "",
}
"""A text for each kind of text on which tokenizers are known to differ."""


def parse_peer_arguments(description: str | None) -> argparse.Namespace:
    """Return what a peer is started with: the model, the file of the work, and where its answers go."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


@dataclass(frozen=True, slots=True)
class Work:
    """Written by `greedy_parity`, read by every side.

    `texts` are cut into ids, and nothing is added. `prompt_texts` are conversations as their template writes
    them, `prompt_ids` their ids by this project's renderer: a side cuts the first and draws from the second.
    """

    texts: list[str]
    prompt_texts: list[str]
    prompt_ids: list[list[int]]
    stop_ids: list[int]
    max_new_tokens: int
    dtype: str

    @property
    def context_tokens(self) -> int:
        """How many tokens the longest row may have."""
        return max(map(len, self.prompt_ids)) + self.max_new_tokens


@dataclass(frozen=True, slots=True)
class Answers:
    """What a side makes of the work, in its order; `completion_ids` are without the stop token."""

    engine: str
    text_ids: list[list[int]]
    prompt_ids: list[list[int]]
    completion_ids: list[list[int]]
    completion_texts: list[str]


def write_record(record: Work | Answers, path: Path) -> None:
    """Write a record as JSON."""
    path.write_text(json.dumps(asdict(record)), encoding="utf-8")


def read_work(path: Path) -> Work:
    """Read the work."""
    return Work(**json.loads(path.read_text(encoding="utf-8")))


def read_answers(path: Path) -> Answers:
    """Read a side's answers."""
    return Answers(**json.loads(path.read_text(encoding="utf-8")))


def cut_at_stop(ids: Sequence[int], stop_ids: Sequence[int]) -> list[int]:
    """Return ids before the first stop token."""
    end = next((index for index, token in enumerate(ids) if token in stop_ids), len(ids))
    return list(ids[:end])
