"""Rows of multiple choice with a context for each choice, on a tiny model."""

from __future__ import annotations

from typing import Any

from posttrain.evaluation.task import ChoiceTask
from tests.pipeline.test_measure import Bench, bench, weigh_by_hand, write
from tests.pipeline.tiny_runs import Workshop

__all__ = ["bench"]


def test_one_continuation_is_weighed_after_each_choices_own_context(workshop: Workshop, bench: Bench) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": f"the {a} met the {b} and _ ran", "choices": [a, b], "answer": 0, "continuation": f"ran to {n}",
         "contexts": [f"the {a} met the {b} and the {a}", f"the {a} met the {b} and the {b}"]}
        for n, (a, b) in enumerate([("cow", "ant"), ("elephant", "cow"), ("ant", "elephant"), ("bee", "ox")])
    ]  # fmt: skip
    write(workshop.folder / "rows.jsonl", rows)
    task = ChoiceTask(name="schemas", type="choice", data={"source": "rows.jsonl"}, parts=["by_sum", "by_byte"])
    items = bench.measurer.measure(bench.policy, task).read_items()
    for row, item in zip(rows, items, strict=True):
        sums = [weigh_by_hand(bench, context, [row["continuation"]])[0] for context in row["contexts"]]
        assert item.text == row["choices"][sums.index(max(sums))]
        assert item.outcome.value == item.outcome.parts["by_sum"] == item.outcome.parts["by_byte"]
    assert len({item.text for item in items}) > 1
