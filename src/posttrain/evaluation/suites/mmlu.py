"""MMLU: four-way questions from 57 subjects, from elementary mathematics to professional law.

Hendrycks et al. 2021, "Measuring Massive Multitask Language Understanding", arXiv 2009.03300 (hendrycks/test, MIT). A
row, with the subject that the published CSV files have in their names:

    {"subject": "astronomy", "question": "Which planet is nearest to the Sun?",
     "choices": ["Venus", "Mercury", "Mars", "Earth"], "answer": "B"}

Right is a question whose right letter is the likeliest of the four after "Answer:". Published numbers are accuracies
over all questions or the mean over subjects, mostly with five questions of the part `dev` before each; this is the
first, and without them.

Traps: an estimated 6 % of the questions are wrong or have no right answer (Gema et al. 2024, arXiv 2406.04127). Nine
questions of the test have two options of one text, a hundred stand there twice, and 606 of three history subjects
share 201 passages: rows with the same passage, or the same question and options, are one cluster.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from posttrain.evaluation.benchmark import Benchmark, PublishedFile
from posttrain.evaluation.suites.reading import LETTERS, letter_choices, name_cluster, take_place, take_text, take_texts

_PASSAGE = "This question refers to the following information."


def read_row(row: Mapping[str, Any], file: PublishedFile) -> Iterable[dict[str, Any]]:
    """Return the question below the name of its subject, with its options; `answer` is a letter or a place."""
    del file
    question, subject, texts = take_text(row, "question"), take_text(row, "subject"), take_texts(row, "choices")
    answer = row["answer"]
    right = LETTERS.index(answer) if isinstance(answer, str) and len(answer) == 1 else take_place(row, "answer", 4)
    if len(texts) != 4:
        raise ValueError(f"{len(texts)} choices, not 4")
    heading = f"The following is a multiple choice question about {subject.replace('_', ' ')}."
    is_shared = question.lstrip().startswith(_PASSAGE)
    source = [question.strip().rpartition("\n")[0]] if is_shared else [question, *texts]
    yield {
        **letter_choices(question, texts, right, heading),
        "subject": subject,
        "cluster_id": name_cluster(*source),
    }


MMLU = Benchmark(
    name="mmlu",
    version=1,
    about="four-way questions from 57 subjects; the right letter is the likeliest",
    source="Hendrycks et al. 2021, arXiv 2009.03300",
    licence="MIT",
    settings={"type": "choice", "normalisation": "sum"},
    read_row=read_row,
    files={
        "test": ("gates/mmlu_test.jsonl.gz", "mmlu_test.jsonl"),
        "validation": ("gates/mmlu_val.jsonl.gz", "mmlu_val.jsonl"),
        "dev": ("gates/mmlu_dev.jsonl.gz", "mmlu_dev.jsonl"),
    },
    hub={
        "test": ("hub:cais/mmlu:all", "test"),
        "validation": ("hub:cais/mmlu:all", "validation"),
        "dev": ("hub:cais/mmlu:all", "dev"),
    },
)
