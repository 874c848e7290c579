"""The lab's sets as raw rows, for `source: lab:<set>` in a recipe.

`lab:conversations` gives TRL `messages` rows of one question and its answer, with the columns
`answer`, `skill` and `content` (what the question is about; rows that share it are not independent).
`lab:documents` gives `text` rows to read in `mode: full_text`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from posttrain.core.config import suggest
from posttrain.core.errors import DataError
from posttrain.lab.corpus import generate_documents
from posttrain.lab.tasks import generate_problems

LAB_VERSION = "1"
"""Part of every fingerprint of lab data: it changes whenever any generated row does."""

LAB_SEED = 20_240_726
NUM_ROWS = {
    "conversations": {"train": 24_000, "development": 400, "held_out": 400, "final": 400, "perturbed": 400},
    "documents": {"train": 10_000, "development": 200},
}


def lab_rows(name: str, split: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a named set and split, the same ones in every process.

    Raises:
        DataError: The lab has no such set, or the set has no such split.
    """
    if name not in NUM_ROWS:
        raise DataError(
            f"the lab has no set '{name}'",
            expected="one of " + ", ".join(f"lab:{known}" for known in NUM_ROWS),
            cure=suggest(name, NUM_ROWS),
            place=f"lab:{name}",
        )
    if split not in NUM_ROWS[name]:
        raise DataError(
            f"lab:{name} has no split '{split}'",
            expected="one of " + ", ".join(NUM_ROWS[name]),
            cure=suggest(split, NUM_ROWS[name]),
            place=f"lab:{name}",
        )
    return _generate_rows(name, split)


def _generate_rows(name: str, split: str) -> Iterator[dict[str, Any]]:
    count = NUM_ROWS[name][split]
    if name == "documents":
        for text in generate_documents(split, count, LAB_SEED):
            yield {"text": text}
        return
    for problem in generate_problems(split, count, LAB_SEED):
        yield {
            "messages": [
                {"role": "user", "content": problem.question},
                {"role": "assistant", "content": problem.answer},
            ],
            "answer": problem.answer,
            "skill": problem.skill.name,
            "content": problem.content,
        }
