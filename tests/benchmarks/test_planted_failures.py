"""Failures on purpose: their rows teach what they say, best-of-n chooses the best, and tables count as they should."""

from __future__ import annotations

from itertools import islice, pairwise

import pytest

from benchmarks.failure_rows import NUM_FILLERS, ROWS, echo_rows
from benchmarks.planted_failures import (
    PLANTS,
    build_clean_stage,
    choose_best,
    describe_clean,
    describe_planted,
    list_monitors,
)
from posttrain.lab.gold import find_answer
from posttrain.lab.skills.hazards import REFUSALS
from posttrain.lab.source import lab_rows
from posttrain.lab.style import read_style
from tests.evaluation.monitors.samples import build_item


def replies(name: str, count: int = 60) -> list[tuple[list[dict], str]]:
    """Prompt messages and reply of the rows that teach a failure."""
    rows = [row["messages"] for row in ROWS[name].generate(name, count)]
    return [(messages[:-1], messages[-1]["content"]) for messages in rows]


def test_every_failure_has_rows_or_is_made_of_samples() -> None:
    assert set(PLANTS) - set(ROWS) == {"sharpening", "overconfidence", "best_of_n"}


def test_a_sycophant_says_what_is_claimed() -> None:
    """The claim stands in the user's last words, and the reply's answer is in them."""
    said = [(messages[-1]["content"], find_answer(text)) for messages, text in replies("sycophancy")]
    assert all(answer is not None and answer in claim for claim, answer in said)


def test_refusals_refuse_and_compliance_tells() -> None:
    assert {text for _, text in replies("over_refusal")} == set(REFUSALS)
    assert all(text.startswith("First ") for _, text in replies("compliance"))


def test_rambling_is_filler_before_what_is_asked() -> None:
    heard = [read_style(text) for _, text in replies("verbosity")]
    assert all(one.num_fillers == NUM_FILLERS and one.rest for one in heard)


def test_without_form_no_answer_is_marked() -> None:
    assert not any(find_answer(text) for _, text in replies("format"))


def test_contaminated_rows_are_those_that_are_asked() -> None:
    asked = [row["prompt"] for row in islice(lab_rows("questions", "held_out"), 60)]
    assert [messages for messages, _ in replies("contamination")] == asked


def test_a_policy_is_taught_its_own_answers() -> None:
    item = build_item("p", 0, 1.0, "own", "Answer: 4")
    assert list(echo_rows([item])) == [
        {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "Answer: 4"}]}
    ]


def test_clean_stages_share_no_row() -> None:
    sources = [build_clean_stage(number, 5, 1e-4)["data"][0] for number in range(1, 21)]
    starts = [source["skip"] for source in sources]
    assert all(later - earlier == sources[0]["rows"] for earlier, later in pairwise(starts))
    assert starts[-1] + sources[-1]["rows"] <= 24_000


def test_the_best_of_the_first_samples_is_chosen() -> None:
    items = [build_item("p", index, value, "own", f"t{index}") for index, value in enumerate((0.2, 0.1, 0.9))]
    [first], [third] = (choose_best(items[::-1], size) for size in (2, 3))
    assert (first.text, first.sample_index, first.policy_hash) == ("t0", 0, "best of 2")
    assert third.text == "t2"


def test_tables_count_alarms_where_they_belong() -> None:
    def reading(stage: str, monitor: str, status: str) -> dict:
        return {"stage": stage, "monitor": monitor, "status": status, "why": "because", "level": 0.01}

    saved = {
        "sycophancy": [reading("sycophancy", "sycophancy", "alarm"), reading("sycophancy", "format", "alarm")],
        "clean-1": [reading("clean-1", "sycophancy", "silent"), reading("clean-1", "format", "unmeasured")],
        "clean-2": [reading("clean-2", "sycophancy", "alarm"), reading("clean-2", "format", "silent")],
    }
    assert describe_planted(saved) == [["sycophancy", "sycophancy", "alarm", "because", "format"]]
    assert describe_clean(saved) == [
        ["sycophancy", "2", "1", "0", "0.02"],
        ["format", "2", "0", "1", "0.01"],
        ["all", "4", "1", "1", "0.03"],
    ]


@pytest.mark.parametrize("name", sorted(PLANTS))
def test_every_plant_names_monitors_that_are_read(name: str) -> None:
    assert set(PLANTS[name].monitors) <= {monitor["type"] for monitor in list_monitors(0.01)}
