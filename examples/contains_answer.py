"""A scorer: 1 where the row's `answer` stands anywhere in the completion, else 0."""

from typing import Any


def contains_answer(
    prompts: list[Any], completions: list[str], completion_ids: list[list[int]], answer: list[Any], **columns: list[Any]
) -> list[float | None]:
    """Return one value for each completion; None where a row has no answer to look for."""
    return [
        None if right is None else float(str(right) in text) for text, right in zip(completions, answer, strict=True)
    ]
