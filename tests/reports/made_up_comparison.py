"""A made-up comparison of two policies: better, worse, undecided, undecided after Holm, and unmeasured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from posttrain.core.hashing import hash_text
from posttrain.reports.comparison import (
    ComparedMetric,
    ComparedPolicy,
    Comparison,
    Flip,
    MeasuredSide,
    TaskFlips,
    Verdict,
)
from tests.reports.made_up_run import identity, make_item, wilson

NUM_ITEMS = 200
Text = Callable[[str], str]


def make_comparison(text: Text = identity) -> Comparison:
    """Return the comparison; `text` maps every text of unknown origin."""
    metrics = [
        compare(text, "arithmetic", "exact_match", (38, 110), (80, 8), (0.281, 0.436), 1.2e-15, "better"),
        compare(text, "facts", "exact_match", (150, 128), (9, 31), (-0.169, -0.053), 0.0007, "worse"),
        compare(text, "tools", "correct", (160, 163), (14, 11), (-0.034, 0.064), 0.69, "undecided", clusters=40),
        compare(
            text,
            "instructions",
            "strict",
            (90, 105),
            (31, 16),
            (0.008, 0.142),
            0.04,
            "better",
            adjusted=(0.08, "undecided"),
        ),
        compare(text, "benign", "refused", (4, 3), (1, 2), (-0.025, 0.015), 1.0, "undecided"),
        compare(text, "citations", "supported", (70, 0), (0, 0), (0.0, 0.0), 0.5, "unmeasured"),
        compare(
            text, "prose", "bits_per_byte", (226, 214), (120, 80), (-0.09, -0.03), 0.0002, "better", unit="bits/byte"
        ),
    ]
    return Comparison(
        a=ComparedPolicy(text("base"), hash_text("artifact", "seedling")),
        b=ComparedPolicy(text("sft-expert"), hash_text("artifact", "sft-expert")),
        metrics=metrics,
        flips=[make_flips(text, "arithmetic"), make_flips(text, "facts"), TaskFlips(text("tools"), 11, 14)],
        notes=[text("A was asked with another chat template than B on facts.")],
    )


# many parameters: one row of figures, spelled out where it is used
def compare(
    text: Text,
    task: str,
    name: str,
    right: tuple[int, int],
    changed: tuple[int, int],
    limits: tuple[float, float],
    p_value: float,
    verdict: Verdict,
    *,
    adjusted: tuple[float, Verdict] | None = None,
    clusters: int = NUM_ITEMS,
    unit: str = "fraction",
) -> ComparedMetric:
    """Return a metric of `NUM_ITEMS` pairs from the counts of right answers and of pairs that changed."""
    corrected = adjusted or (min(1.0, 7 * p_value), verdict)
    values = [count / NUM_ITEMS for count in right]
    templates = ("chatml", "plain") if task == "facts" else ("chatml", "chatml")
    cut = 194 if task == "arithmetic" else 3
    sides = [
        MeasuredSide(
            value,
            *(wilson(value, NUM_ITEMS) if unit == "fraction" else (value - 0.02, value + 0.02)),
            outcomes={"scored": NUM_ITEMS - num_cut, "unparsed": 0, "truncated": num_cut, "harness": 1},
            template=text(hash_text(template)),
        )
        for value, template, num_cut in zip(values, templates, (cut, 3), strict=True)
    ]
    reasons: dict[str, str] = {
        "unmeasured": "B has no items of this task",
        "undecided": "a loss of 5 points is not ruled out",
    }
    settings: dict[str, Any] = {"max_new_tokens": 32, "temperature": 0.0, "top_p": None, text("stop"): text("###")}
    b = sides[1] if verdict != "unmeasured" else MeasuredSide(None, None, None)
    return ComparedMetric(
        task=text(task),
        name=text(name),
        a=sides[0],
        b=b,
        num_items=NUM_ITEMS,
        num_clusters=clusters,
        difference=values[1] - values[0],
        low=limits[0],
        high=limits[1],
        p_value=p_value,
        verdict=verdict,
        reason=text(reasons.get(verdict, "")) if verdict in reasons else "",
        num_better=changed[0],
        num_worse=changed[1],
        num_same=NUM_ITEMS - sum(changed),
        adjusted_p_value=corrected[0],
        adjusted_verdict=corrected[1],
        unit=unit,
        method="mcnemar_exact",
        task_hash=hash_text(task),
        settings=settings,
        left_out={"harness": 2} if task == "tools" else {},
    )


def make_flips(text: Text, task: str) -> TaskFlips:
    """Return two lost items and one gained item of a task."""
    lost, gained = [], []
    for index in range(3):
        question, right, wrong = make_item(index)
        is_lost = index < 2
        flip = Flip(
            item_id=text(f"{task}-{index:04d}"),
            prompt=[{"role": text("user"), "content": text(question)}] if index else text(question),
            reference=text(right),
            text_a=text(right if is_lost else wrong),
            text_b=text(wrong if is_lost else right),
            score_a=float(is_lost),
            score_b=0.5 if index == 1 else float(not is_lost),
        )
        (lost if is_lost else gained).append(flip)
    return TaskFlips(text(task), 31, 9, lost, gained)
