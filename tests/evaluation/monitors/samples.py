"""Items as a policy would leave them, written down by hand."""

from __future__ import annotations

from collections.abc import Sequence

from posttrain.core.records import ItemResult, Outcome


def build_item(problem: str, index: int, value: float, policy: str, text: str = "", **parts: float) -> ItemResult:
    """Return a scored item whose answer is its text."""
    outcome = Outcome("scored", value, parts=dict(parts), answer=text or None)
    return ItemResult(problem, "", "task", index, outcome, policy, text=text, prompt=[{"role": "user", "content": "?"}])


def build_samples(
    policy: str,
    texts: Sequence[Sequence[str]],
    *,
    right: str = "",
    nats: float = 10.0,
    tokens: float = 10.0,
) -> list[ItemResult]:
    """Return one item for each text of each problem; a text is right if it begins with `right`."""
    return [
        build_item(
            f"p{number}",
            index,
            float(bool(right) and text.startswith(right)),
            policy,
            text,
            drawn_nats=nats,
            drawn_tokens=tokens,
        )
        for number, group in enumerate(texts)
        for index, text in enumerate(group)
    ]
