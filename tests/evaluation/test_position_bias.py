"""Position bias read from choice items: which items are one question, and what a reading says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from posttrain.core.records import ItemResult, Outcome
from posttrain.core.seeds import build_numpy_generator
from posttrain.evaluation.items import drop_texts
from posttrain.evaluation.monitors.position_bias import PositionBiasMonitor
from posttrain.evaluation.monitors.reading import Reading
from posttrain.evaluation.monitors.settings import read_monitor
from posttrain.evaluation.order_figures import describe_order, find_order_pairs, read_option_texts, summarise_orders

Choose = Callable[[int, list[str]], int]


def make_item(number: int, options: list[str], right: str, choose: Choose, *, cluster: str | None = None) -> ItemResult:
    """An item whose options are shown with letters."""
    chosen = choose(number, options)
    parts = describe_order(options, [options.index(right)], chosen)
    outcome = Outcome("scored", float(options[chosen] == right), parts=parts, answer=f"({'ABC'[chosen]})")
    name = f"q{number}" if cluster is None else cluster
    prompt = [{"role": "user", "content": f"question {number}?"}]
    return ItemResult(f"{name}{options[0]}", name, "t", 0, outcome, "p", options[chosen], prompt, right)


def ask(count: int, choose: Choose, options: tuple[str, str] = ("tea", "milk")) -> list[ItemResult]:
    """Questions in both orders, of which the first option is right in every other one."""
    items = []
    for number in range(count):
        right = options[number % 2]
        items += [make_item(number, list(order), right, choose) for order in (options, options[::-1])]
    return items


MONITOR = PositionBiasMonitor(type="position_bias", task="asked")


def read(items: list[ItemResult]) -> tuple[Reading, dict[str, float | None]]:
    reading = MONITOR.read({"asked": items}, None)
    return reading, {figure.name: figure.value for figure in reading.figures}


def test_always_the_first_option_is_an_alarm_and_no_share() -> None:
    reading, figures = read(ask(30, lambda number, options: 0))
    assert reading.status == "alarm"
    assert figures == {"share_matching": None, "consistency": 0.0, "position_bias": 1.0}
    assert "what the policy matches is not measured" in reading.why
    assert [example.item_id for example in reading.examples[:2]] == ["q0tea", "q0milk"]


def test_a_position_that_changes_from_question_to_question_is_an_alarm_without_a_bias() -> None:
    """The last option in every other pair of questions: no side is preferred, and yet no option is ever kept."""
    reading, figures = read(ask(32, lambda number, options: number // 2 % 2))
    assert reading.status == "alarm"
    assert (figures["consistency"], figures["position_bias"]) == (0.0, 0.0)


def test_an_option_that_is_kept_is_measured() -> None:
    reading, figures = read(ask(30, lambda number, options: options.index("tea")))
    assert reading.status == "silent"
    assert (figures["share_matching"], figures["consistency"]) == (0.5, 1.0)
    assert "label_bias" not in figures


def test_yes_to_everything_is_an_alarm_though_the_option_is_kept() -> None:
    reading, figures = read(ask(30, lambda number, options: options.index("Yes."), ("Yes.", "No, never.")))
    assert reading.status == "alarm"
    assert (figures["share_matching"], figures["consistency"], figures["label_bias"]) == (None, 1.0, 1.0)
    assert "the word decides" in reading.why


def test_yes_that_always_matches_cannot_be_told_from_a_word_and_is_said_to() -> None:
    items = [
        make_item(number, list(order), "Yes", lambda number, options: options.index("Yes"))
        for number in range(20)
        for order in (("Yes", "No"), ("No", "Yes"))
    ]
    reading, figures = read(items)
    assert (reading.status, figures["share_matching"]) == ("silent", 1.0)
    assert reading.why.endswith("what matches always begins with Yes, as 100% of all answers do")


def test_what_keeps_half_of_its_options_cannot_be_told_from_guessing() -> None:
    reading, figures = read(ask(24, lambda number, options: options.index("tea") if number // 2 % 2 else 0))
    assert (reading.status, figures["consistency"]) == ("unmeasured", 0.5)
    assert figures["share_matching"] is None
    assert "cannot be told from guessing, 50%" in reading.why


def test_a_guesser_among_three_options_is_no_alarm_and_the_bound_is_a_third() -> None:
    generator = build_numpy_generator("guesser")
    items = [
        make_item(number, list(order), "x", lambda number, options: int(generator.integers(3)))
        for number in range(200)
        for order in ("xyz", "zyx")
    ]
    reading, figures = read(items)
    bound = next(figure.bound for figure in reading.figures if figure.name == "consistency")
    assert (reading.status, bound) == ("unmeasured", pytest.approx(1 / 3))
    assert figures["consistency"] == pytest.approx(1 / 3, abs=0.1)
    first = [make_item(n, list(order), "x", lambda n, options: 0) for n in range(30) for order in ("xyz", "zyx")]
    assert read(first)[0].status == "alarm"


def test_few_sources_are_unmeasured_however_often_their_questions_stand_there() -> None:
    few = ask(9, lambda number, options: options.index("tea")) * 10
    what = read_monitor(MONITOR, {"asked": few}, None, None)
    assert (what.status, what.why.startswith("9 sources of questions in both orders")) == ("unmeasured", True)


def test_faults_and_a_task_that_was_not_measured_are_told() -> None:
    items = ask(30, lambda number, options: 0)
    broken = [replace(item, outcome=replace(item.outcome, status="errored", fault="harness")) for item in items[:2]]
    assert "harness failed on 2 of 60" in read_monitor(MONITOR, {"asked": [*broken, *items[2:]]}, None, None).why
    assert "no items of the task asked" in read_monitor(MONITOR, {}, None, None).why


def test_a_task_without_both_orders_and_without_labels_says_that_it_cannot_tell() -> None:
    items = ask(20, lambda number, options: 0)[::2]
    reading, figures = read(items)
    assert (reading.status, figures) == ("unmeasured", {})
    assert summarise_orders("asked", items) == []


def test_clusters_of_different_questions_are_no_pairs() -> None:
    first: Choose = lambda number, options: 0  # noqa: E731
    other = [make_item(n, ["a", "b"], "ab"[n % 2], first, cluster=f"c{n // 2}") for n in range(10)]
    assert find_order_pairs(other) == []
    assert find_order_pairs([*ask(5, first), *other]) == []
    assert len(find_order_pairs([*ask(20, first), *other[:2]])) == 20
    assert len(find_order_pairs([*ask(5, first), make_item(9, ["x", "tea"], "tea", first)])) == 5


def test_a_question_that_stands_there_twice_gives_two_pairs_and_a_right_one_in_the_middle_none() -> None:
    first: Choose = lambda number, options: 0  # noqa: E731
    assert len(find_order_pairs([*ask(5, first), *ask(5, first)])) == 10
    middle = [make_item(9, list(order), "y", first) for order in ("xyz", "zyx")]
    assert len(find_order_pairs([*ask(5, first), *middle])) == 5


def test_letters_stand_for_the_options_that_the_prompt_lists() -> None:
    def read_texts(content: str, *choices: str) -> list[str]:
        return read_option_texts([{"role": "user", "content": content}], choices)

    assert read_texts("Tea?\nA. Yes\nB. No,\nnever\nAnswer:", "A", "B") == ["Yes", "No,\nnever"]
    assert read_texts("(A) old\n\n(A) Yes\n (B) No", " (A)", " (B)") == ["Yes", "No"]
    assert read_texts("A. Yes\nB. No\nC. Both", "A", "B") == ["A", "B"]
    assert read_texts("no list", "A", "B") == ["A", "B"]
    assert read_texts("A. Yes\nB. No", "tea", "milk") == ["tea", "milk"]


def test_yes_to_everything_is_seen_through_letters() -> None:
    items = []
    for number in range(30):
        for options in (["Yes", "No"], ["No", "Yes"]):
            place, right = options.index("Yes"), options.index(("Yes", "No")[number % 2])
            parts = describe_order(options, [right], place)
            outcome = Outcome("scored", float(place == right), parts=parts, answer="AB"[place])
            prompt = [{"role": "user", "content": f"Tea {number}?\nA. {options[0]}\nB. {options[1]}\nAnswer:"}]
            items.append(
                ItemResult(f"{number}{place}", f"c{number}", "t", 0, outcome, "p", "AB"[place], prompt, "AB"[right])
            )
    reading, figures = read(items)
    assert (reading.status, figures["consistency"], figures["label_bias"]) == ("alarm", 1.0, 1.0)


def test_several_right_options_and_values_that_are_no_verdict_are_left_out() -> None:
    assert describe_order(["a", "b", "c"], [0, 2], 1) == {}
    items = [replace(item, outcome=replace(item.outcome, value=0.3)) for item in ask(5, lambda number, options: 0)]
    assert find_order_pairs(items) == []


def test_figures_are_the_same_of_items_without_their_texts() -> None:
    items = ask(30, lambda number, options: 0 if number % 3 else options.index("milk"))
    figures = summarise_orders("asked", items)
    assert figures == summarise_orders("asked", [drop_texts(item) for item in items])
    assert [(one["name"], one["n"]) for one in figures] == [("consistency", 30), ("position_bias", 30)]
    assert figures[0]["value"] == pytest.approx(1 / 3)


def test_statements_with_labels_have_a_label_bias() -> None:
    items = []
    for number in range(40):
        right = ("Yes", "No")[number % 2]
        outcome = Outcome(
            "scored", float(right == "Yes"), parts=describe_order(["Yes", "No"], [number % 2], 0), answer="Yes"
        )
        items.append(ItemResult(f"s{number}", "", "t", 0, outcome, "p", "Yes", [], right))
    [figures] = summarise_orders("asked", items)
    assert (figures["name"], figures["value"], figures["n"]) == ("label_bias", 1.0, 40)
    reading, values = read(items)
    assert reading.status == "alarm"
    assert values == {"share_matching": None, "label_bias": 1.0, "share_matching_yes": 1.0, "share_matching_no": 0.0}
