r"""MATH-500: 500 competition problems of seven subjects and five levels, drawn from the test set of MATH.

Hendrycks et al. 2021, "Measuring Mathematical Problem Solving With the MATH Dataset", arXiv 2103.03874; the choice of
500 is Lightman et al. 2023, "Let's Verify Step by Step", arXiv 2305.20050 (openai/prm800k, MIT). A row as published:

    {"problem": "Compute $3 \\cdot \\frac{5}{6}$.", "solution": "... $\\boxed{\\frac{5}{2}}$.",
     "answer": "\\frac{5}{2}", "subject": "Prealgebra", "level": 1, "unique_id": "test/prealgebra/1.json"}

Right is a reply whose declared answer equals the gold one as mathematics, in the form that the gold one has: a number,
an expression, an interval, a matrix, words.

Traps: MATH's training set is part of most mathematical instruction sets, and 500 problems give an interval of about
four points to either side. Graders differ by a point or two on one set of replies; compare under one grader alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from posttrain.evaluation.benchmark import Benchmark, PublishedFile
from posttrain.evaluation.suites.reading import mark_leaks, take_text, take_whole

ASKED_FORM = r"Work it out step by step. Then give the final answer in \boxed{}."


def read_row(row: Mapping[str, Any], file: PublishedFile) -> Iterable[dict[str, Any]]:
    """Return the problem with its gold answer, its solution, subject and level."""
    del file
    yield {
        "prompt": f"{take_text(row, 'problem').strip()}\n\n{ASKED_FORM}",
        "answer": take_text(row, "answer"),
        "solution": take_text(row, "solution"),
        "subject": take_text(row, "subject"),
        "level": take_whole(row, "level"),
        **mark_leaks(take_text(row, "problem")),
    }


MATH500 = Benchmark(
    name="math500",
    version=1,
    about="competition mathematics; the boxed answer equals the gold one as mathematics",
    source="Lightman et al. 2023, arXiv 2305.20050; Hendrycks et al. 2021, arXiv 2103.03874",
    licence="MIT",
    settings={"scorer": {"type": "math", "answer_form": "by_gold"}, "max_new_tokens": 1024},
    read_row=read_row,
    files={"test": ("math/math500.jsonl", "math500.jsonl")},
    hub={"test": ("hub:HuggingFaceH4/MATH-500", "test")},
)
