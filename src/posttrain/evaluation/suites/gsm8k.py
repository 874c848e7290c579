"""GSM8K: word problems of two to eight steps from grade school, whose answer is a number.

Cobbe et al. 2021, "Training Verifiers to Solve Math Word Problems", arXiv 2110.14168 (openai/grade-school-math, MIT).
A row as published:

    {"question": "A pack holds 6 pens. How many pens are in 7 packs?",
     "answer": "There are 6*7=<<6*7=42>>42 pens.\\n#### 42"}

Right is a reply whose declared answer (`#### 42`, a box, or "the answer is 42") is the number after `####`, compared
as numbers: `42.0` and `$42` are right, `42 or 43` is not.

Traps: the parts in `<<>>` are for a calculator that the authors let the model use; worked solutions are of human hand
and a few golds are wrong. The training set is in many instruction sets, near copies of the test set too: look at
`posttrain data contamination`. Numbers with eight solved examples before the question, as the literature has them, are
no numbers of this task, which has none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from posttrain.evaluation.benchmark import Benchmark, PublishedFile
from posttrain.evaluation.suites.reading import mark_leaks, take_text

ASKED_FORM = 'Work it out step by step. Then write the answer alone on the last line, after "#### ".'


def read_row(row: Mapping[str, Any], file: PublishedFile) -> Iterable[dict[str, Any]]:
    """Return the problem; `answer` is the worked solution, which the scorer reads after its `####`."""
    del file
    answer = take_text(row, "answer")
    if answer.count("####") != 1:
        raise ValueError("'answer' has no single '####' before the number")
    question = take_text(row, "question").strip()
    yield {"prompt": f"{question}\n\n{ASKED_FORM}", "answer": answer, **mark_leaks(question)}


GSM8K = Benchmark(
    name="gsm8k",
    version=1,
    about="grade-school word problems; the declared number is the gold one",
    source="Cobbe et al. 2021, arXiv 2110.14168",
    licence="MIT",
    settings={
        "scorer": {"type": "math", "answer_form": "number", "extraction": ["hashes", "boxed", "phrase"]},
        "max_new_tokens": 512,
    },
    read_row=read_row,
    files={
        "test": ("math/gsm8k_test.jsonl", "gsm8k_test.jsonl"),
        "train": ("math/gsm8k_train.jsonl.gz", "gsm8k_train.jsonl"),
    },
    hub={"test": ("hub:openai/gsm8k:main", "test"), "train": ("hub:openai/gsm8k:main", "train")},
)
