"""SVAMP: 1,000 one-step word problems, made from 100 others by changes that a reader by pattern does not notice.

Patel et al. 2021, "Are NLP Models really able to Solve Simple Math Word Problems?", arXiv 2103.07191
(arkilpatel/SVAMP, MIT). A row as published:

    {"ID": "chal-1", "Body": "A box holds 12 eggs. Ann takes out 5", "Question": "How many eggs are left?",
     "Equation": "( 12.0 - 5.0 )", "Answer": 7.0, "Type": "Subtraction"}

Right is a reply whose declared answer is the gold number.

Traps: the body often ends without a full stop; one is put there. The authors' changes make ten or so variants of one
seed problem, but the file does not say which, so that rows count as independent and the interval is a little narrow.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from posttrain.evaluation.benchmark import Benchmark, PublishedFile
from posttrain.evaluation.suites.gsm8k import ASKED_FORM
from posttrain.evaluation.suites.reading import mark_leaks, take_text, take_whole


def read_row(row: Mapping[str, Any], file: PublishedFile) -> Iterable[dict[str, Any]]:
    """Return the problem, body and question in one text."""
    del file
    body, question, answer = take_text(row, "Body").strip(), take_text(row, "Question").strip(), row["Answer"]
    if not isinstance(answer, float) or not math.isfinite(answer):
        answer = take_whole(row, "Answer")
    told = body if body.endswith((".", "!", "?")) else f"{body}."
    whole = int(answer) if answer == int(answer) else answer
    yield {
        "prompt": f"{told} {question}\n\n{ASKED_FORM}",
        "answer": str(whole),
        "solution": f"#### {whole}",
        "kind": take_text(row, "Type"),
        **mark_leaks(f"{told} {question}"),
    }


SVAMP = Benchmark(
    name="svamp",
    version=1,
    about="one-step word problems with misleading details; the declared number is the gold one",
    source="Patel et al. 2021, arXiv 2103.07191",
    licence="MIT",
    settings={
        "scorer": {"type": "math", "answer_form": "number", "extraction": ["hashes", "boxed", "phrase"]},
        "max_new_tokens": 256,
    },
    read_row=read_row,
    files={"test": ("math/svamp.json", "SVAMP.json", "svamp.json")},
)
