"""Labelled pairs of a gold answer and a completion, to judge judges of mathematics by.

* `gsm8k`: 5,276 solutions by four models for 1,319 test questions, each with the label that came with it.
* `gsm8k_boxed`: the same with the answer after `A:` written in a box as well, for judges that read LaTeX alone.
* `math_samples`: 800 sampled solutions of 100 problems of MATH, with the verdicts that came with them.
* `math500`: every gold answer against itself and against other spellings of it: all right.
* `math500_full_stop`: the same with a full stop inside the box.
* `math500_crossed`: every gold answer against every other one. What is equal as mathematics is right.
* `hostile`: hostile answers and controls.
"""

from __future__ import annotations

import gzip
import itertools
import json
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
_SAME = (  # golds of MATH-500 that are equal as mathematics, whatever their spelling or the unit beside them
    {r"5", r"x=5"}, {r"\frac{1}{4}", r"\frac14"}, {r"10,\!080", "10080"}, {r"2 \sqrt{5}", r"2\sqrt{5}"},
    {"1,-2", "-2,1"}, {r"90^\circ", "90"}, {r"120^\circ", "120"}, {r"30^\circ", "30"}, {r"36^\circ", "36"},
    {r"\$36", "36"}, {r"15\mbox{ cm}^2", "15"},
)  # fmt: skip


CONTESTED = {
    r"\text{4:30 p.m.}": "the harness took `4:30 \\text{ p.m.}` for another answer; it differs in spelling alone",
    "10{,}000": "the harness took `10000` for another number",
}
"""Gold answers of `math_samples` whose label `wrong` is contested, and why."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A completion for a problem with a gold answer, and whether it is right."""

    name: str
    gold: str
    text: str
    is_right: bool
    form: str = "by_gold"
    question: str = ""


def _read_lines(path: Path) -> list[dict[str, Any]]:
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    return [json.loads(line) for line in text.split("\n") if line]


def read_gsm8k(data: Path, *, is_boxed: bool = False) -> list[Pair]:
    """Return the labelled solutions; the gold answer is the test set's."""
    solutions = _read_lines(data / "math" / "gsm8k_example_model_solutions.jsonl.gz")
    tests = _read_lines(data / "math" / "gsm8k_test.jsonl")
    pairs = []
    for number, (row, test) in enumerate(zip(solutions, tests, strict=True)):
        gold = test["answer"].split("####")[1].strip()
        for model in MODELS:
            text = row[model]["solution"]
            if is_boxed and (said := re.search(r"^A:[ ]*(\S.*)$", text, re.MULTILINE)):
                text += f"\n$\\boxed{{{said[1].strip()}}}$"
            pairs.append(Pair(f"{number}/{model}", gold, text, row[model]["is_correct"], "number", row["question"]))
    return pairs


def read_math_samples(data: Path) -> list[Pair]:
    """Return sampled solutions of MATH problems with the verdicts of the harness that drew them."""
    rows = _read_lines(data / "math" / "qwen_math100_8samples_rm_scores.jsonl.gz")
    return [
        Pair(f"{row['idx']}/{number}", row["answer"], text, is_right, "by_gold", row["question"])
        for row in rows
        for number, (text, is_right) in enumerate(zip(row["code"], row["score"], strict=True))
    ]


def read_math500(data: Path) -> list[str]:
    """Return the gold answers of MATH-500."""
    return [row["answer"] for row in _read_lines(data / "math" / "math500.jsonl")]


def rewrite(gold: str) -> list[str]:
    """Return other spellings of a gold answer, each equal to it as mathematics."""
    spellings = [
        gold,
        re.sub(r"\\[dt]?frac", r"\\dfrac", gold),
        re.sub(r"\\[dt]?frac", r"\\tfrac", gold),
        re.sub(r"\\d?frac\{(\d+)\}\{(\d+)\}$", r"\1/\2", gold) if re.match(r"-?\\d?frac", gold) else gold,
        gold if r"\left" in gold else gold.replace("(", r"\left(").replace(")", r"\right)"),
        gold.replace(r"\left", "").replace(r"\right", ""),
        gold.replace("+", " + ").replace(",", ", ") if re.fullmatch(r"[^\\]*\w\+[^\\]*", gold) else gold,
        rf"\displaystyle {gold}",
        re.sub(r"(?<=\d)(?=(\d{3})+$)", "{,}", gold) if re.fullmatch(r"[1-9]\d{3,}", gold) else gold,
        _write_decimal(gold) or gold,
    ]
    return list(dict.fromkeys(spellings))


def _write_decimal(gold: str) -> str | None:
    found = re.fullmatch(r"(-?)\\d?frac\{(\d+)\}\{(\d+)\}", gold)
    if not found or (1000 * int(found[2])) % int(found[3]):
        return None
    value = Fraction(int(found[2]), int(found[3]))
    return found[1] + f"{float(value):.3f}".rstrip("0").rstrip(".")


def build_rewrites(golds: list[str]) -> list[Pair]:
    """Return each gold answer against its spellings."""
    return [
        Pair(f"{number}/{place}", gold, f"Thus $\\boxed{{{text}}}$.", True)
        for number, gold in enumerate(golds)
        for place, text in enumerate(rewrite(gold))
    ]


def build_full_stops(golds: list[str]) -> list[Pair]:
    """Return each gold answer against itself with a full stop inside the box, as sentences end."""
    return [Pair(str(number), gold, f"Thus $\\boxed{{{gold}.}}$", True) for number, gold in enumerate(golds)]


def _is_same(gold: str, other: str) -> bool:
    # a pair may be given without brackets; two solutions in any order are no pair
    return any({gold, other} <= same for same in _SAME) or (gold, other) == ("(-2,1)", "-2,1")


def build_crossed(golds: list[str], *, every: int = 1) -> list[Pair]:
    """Return each different gold answer against every other one, or every so-manieth of those pairs."""
    different = list(dict.fromkeys(golds))
    crossed = [
        Pair(f"{gold} <- {other}", gold, f"Thus $\\boxed{{{other}}}$.", _is_same(gold, other))
        for gold, other in itertools.permutations(different, 2)
    ]
    return crossed[::every]


def read_hostile(path: Path) -> list[Pair]:
    """Return the hostile cases on mathematics."""
    return [
        Pair(
            row["id"],
            row["task"]["gold"],
            row["payload"],
            row["expected"] == "accept",
            row["task"]["answer_form"],
            row["task"]["question"],
        )
        for row in _read_lines(path)
        if row["kind"] == "math"
    ]
