"""Contamination: each kind of match by hand, what must not count, and what is always found."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.core.config import parse_config
from posttrain.core.errors import DataError, RecipeError
from posttrain.core.records import Example, Problem
from posttrain.data.contamination_index import ContaminationIndex, ContaminationSettings
from posttrain.data.decontamination import ContaminationReport, find_contaminating_rows, find_contamination
from posttrain.data.evaluation_items import EvaluationItem, TrainingText, read_item, read_training_text
from posttrain.data.examples import load_examples
from posttrain.data.sources import DataSource
from posttrain.data.word_tokens import read_words

SUM = "What is 47 + 38?"
DUCKS = "Janet's ducks lay 16 eggs per day and she sells every one of them at the market for 2 dollars."


def item(question: str, *answers: str, keys: tuple[str, ...] = (), name: str = "test:1") -> EvaluationItem:
    return EvaluationItem(name, question, answers, keys)


def check(items: list[EvaluationItem], *texts: str, **values: Any) -> ContaminationReport:
    rows = [TrainingText(f"train:{number}", (text,)) for number, text in enumerate(texts, start=1)]
    return find_contamination(ContaminationIndex(items, ContaminationSettings(**values)), rows)


def kinds(report: ContaminationReport, number: int = 0) -> list[str]:
    return list(report.items[number].matches) if len(report.items) > number else []


def test_a_short_question_is_found_whole_in_any_dress() -> None:
    report = check([item(SUM)], "Nothing.", "Tell me: **WHAT is\n47+38**!", "what is 47 + 38? And 5?")
    assert not report.clean and report.counts == {"whole": 1, "ngrams": 0, "answered": 0, "near": 0, "key": 0}
    match = report.items[0].matches["whole"]
    assert (match.rows, match.row_ids) == (2, ("train:2", "train:3"))
    assert match.passage == "tell me [what is 47 + 38]"


@pytest.mark.parametrize("text", ["What is 47 - 38?", "What is 47 + 39?", "What is 470 + 38?", "What's 47 + 38?"])
def test_another_figure_operator_or_word_is_another_question(text: str) -> None:
    assert check([item(SUM)], text).clean


def test_an_item_is_found_inside_a_longer_document() -> None:
    report = check([item(DUCKS)], f"{'word ' * 500}\n\n{DUCKS.upper()} {'word ' * 500}")
    assert kinds(report) == ["whole", "ngrams"]
    assert (report.items[0].covered, report.items[0].covered_by_all) == (1.0, 1.0)
    assert "[janet s ducks lay 16 eggs" in report.items[0].matches["whole"].passage


def test_ngrams_cover_a_share_of_the_words_by_hand() -> None:
    """20 words; the first 10 occur in row 1 (share 0.5), the last 9 in row 2 (0.45), together 19 (0.95)."""
    words = [f"w{chr(97 + number)}" for number in range(20)]
    first, last = " ".join(words[:10]), " ".join(words[11:])
    report = check([item(" ".join(words))], f"so {first} end", f"so {last} end")
    assert kinds(report) == ["ngrams"]
    assert (report.items[0].covered, report.items[0].covered_by_all) == (0.5, 0.95)
    assert report.items[0].matches["ngrams"].row_ids == ("train:1",)
    assert report.items[0].matches["ngrams"].passage == f"[{first}]"
    assert check([item(" ".join(words))], f"so {first} end", threshold=0.51).clean
    assert check([item(" ".join(words))], " ".join(words[:7])).clean
    assert kinds(check([item(" ".join(words))], " ".join(words[:7]), ngram=7, threshold=0.35)) == ["ngrams"]


def test_ngrams_of_several_rows_together_contaminate_nothing() -> None:
    words = [f"w{chr(97 + number)}" for number in range(20)]
    report = check([item(" ".join(words))], *(" ".join(words[start : start + 8]) for start in (0, 6, 12)))
    assert report.clean


def test_a_content_key_is_contamination_by_itself() -> None:
    rows = ["by the elmridge  CANAL it lay", "the canal of Elmridge", "Elmridge Canals"]
    report = check([item("Where?", keys=("Elmridge Canal", "canary-7f3"))], *rows)
    assert kinds(report) == ["key"]
    assert report.items[0].matches["key"].row_ids == ("train:1",)
    assert report.items[0].matches["key"].passage == "by the [elmridge canal] it lay"
    assert check([item("Where?", keys=("canary-7f3",))], "canary 7f3").counts["key"] == 1


def test_a_question_with_its_answer_is_reported_apart() -> None:
    report = check([item(SUM, "85")], "What is 47 + 38?\nA: 85", "What is 47 + 38? 85.")
    assert report.items[0].matches["whole"].rows == 2
    assert report.items[0].matches["answered"].row_ids == ("train:2",)


def test_a_question_that_many_share_is_found_with_its_answer_only() -> None:
    ask = "Write one true sentence about the sea."
    facts = ["It is salty almost everywhere", "Whales live in it", "The moon moves it twice daily"]
    items = [item(ask, fact, name=f"test:{number}") for number, fact in enumerate(facts)]
    assert check(items, f"{ask}\nIt is blue.", f"{facts[0]}.").clean
    report = check(items, f"{ask}\nWhales live in it, and seals.")
    assert [found.item_id for found in report.items] == ["test:1"] and kinds(report) == ["answered"]
    assert report.searched == {"whole": 0, "ngrams": 0, "answered": 3, "near": 0, "key": 0}


def test_a_long_answer_needs_only_the_end_of_its_question() -> None:
    long = "in spring the river carries the snow of the whole valley"
    question = "You are given a text. Read it with care and go on with it: the year begins and"
    report = check([item(question, long)], f"Go on with it: The year begins and {long}")
    assert kinds(report) == ["answered"]


def test_a_paraphrase_is_not_found() -> None:
    assert check(
        [item(DUCKS)], "Each day 16 eggs come from the ducks that Janet keeps; all are sold for 2 dollars each."
    ).clean


REWORDED = (
    "Every morning Janet's ducks lay 16 eggs a day, and she sells every single one of them at the market for 2 dollars."
)


def test_a_question_reworded_is_found_near_and_only_with_its_figures() -> None:
    question = item(DUCKS)
    swapped = (
        "At the market for 2 dollars she sells every one of them. Anna's ducks lay sixteen eggs per single day, you see"
    )
    for text in (REWORDED, swapped):
        report = check([question], f"So: {text} Now tell me.", ngram=12)
        assert kinds(report) == ["near"], text
    for other in (swapped.replace("sixteen", "17"), swapped.replace("2 dollars", "3 dollars")):
        assert check([question], other, ngram=12).clean
    assert check([question], swapped, ngram=12, near=None).clean


def test_a_near_question_lies_in_one_stretch_of_a_text() -> None:
    """The pairs of the question, spread over a text of 400 words, are no near duplicate of it."""
    words = read_words(DUCKS)
    spread = " ".join(
        f"{left} {right} " + "so it went on and on for long " * 3 for left, right in itertools.pairwise(words)
    )
    assert check([item(DUCKS)], spread).clean


def test_figures_in_another_dress_are_the_same_figures() -> None:
    question = item("Of 1,000 hats, twenty-one are red and 7 are blue.")
    report = check(
        [question], "of １０００ hats, 21 are RED and seven are blue", "of 1000 hats 21 are red and 8 are blue"
    )
    assert kinds(report)[0] == "whole" and report.items[0].matches["whole"].row_ids == ("train:1",)


@pytest.mark.parametrize("text", ["What is forty-seven + 38?", "What is ４７ + ٣٨?"])
def test_a_sum_in_other_digits_is_the_same_sum(text: str) -> None:
    assert kinds(check([item(SUM)], text)) == ["whole"]
    assert check([item(SUM)], text.replace("+", "-")).clean


def test_what_is_too_short_is_counted_and_never_found() -> None:
    items = [item("Hello", name="a"), item("🙂", name="b"), item("2 + 2?", "4", name="c"), item(SUM, name="d")]
    report = check(items, "Hello! 2 + 2? 4")
    assert report.clean and report.too_short == ("a", "b", "c")
    report = check(items, "Hello! 2 + 2? 4", min_words=3)
    assert [found.item_id for found in report.items] == ["c"] and report.too_short == ("a", "b")
    assert list(report.items[0].matches) == ["whole", "answered"]


INSTRUCTION = "Solve the following problem with care and give only the final number as your answer:"
PROBLEMS = [
    "a farmer plants nine rows of blue cabbage behind the old stone barn",
    "seven trains leave the harbour before noon carrying wool for the mills",
    "the baker's twin sons share forty rolls between four hungry neighbours",
    "her grandmother knitted eleven scarves during one very long winter",
]


def test_boilerplate_that_all_items_share_contaminates_none() -> None:
    items = [item(f"{INSTRUCTION} {problem}", name=problem) for problem in PROBLEMS]
    assert check(items, f"{INSTRUCTION} how many legs have three spiders", INSTRUCTION).clean
    report = check(items, f"{INSTRUCTION} {PROBLEMS[1]}")
    assert [found.item_id for found in report.items] == [PROBLEMS[1]]
    assert check(items[:2], INSTRUCTION).counts["ngrams"] == 2  # what two items share is not known as boilerplate


def test_the_share_is_one_of_own_words_by_hand() -> None:
    """12 own words, of which the row holds 5 (share 0.42) or 6 (0.5), each behind the instruction of 15 words."""
    items = [item(f"{INSTRUCTION} {problem}", name=problem) for problem in PROBLEMS]
    words = PROBLEMS[1].split()
    assert len(words) == 12
    assert check(items, f"{INSTRUCTION} {' '.join(words[:5])}").clean
    assert check(items, f"{INSTRUCTION} {' '.join(words[:6])}").items[0].covered == 0.5


def test_an_answer_that_many_questions_end_in_alike_gives_none_away() -> None:
    refusal = "I am sorry but I cannot help with that"
    end = "so answer this for me at once please"
    items = [item(f"{problem} {end}", refusal, name=problem) for problem in PROBLEMS]
    assert check(items, f"{end}\n{refusal}").clean
    assert [kinds(check(items[:2], f"{end}\n{refusal}"), number) for number in (0, 1)] == [["answered"]] * 2


def test_the_passage_of_a_row_is_its_first() -> None:
    for question in (SUM, DUCKS):
        row = TrainingText("train:1", (f"first {question}", f"second {question}"))
        report = find_contamination(ContaminationIndex([item(question)]), [row])
        assert report.items[0].matches["whole"].passage.startswith("first [")
        assert report.items[0].matches["whole"].rows == 1


def test_a_question_is_found_without_the_boilerplate_around_it() -> None:
    items = [item(f"{INSTRUCTION} {problem}. Think step by step, then write it down.") for problem in PROBLEMS]
    report = check(items, f"Q: {PROBLEMS[2]}? A: 10")
    assert [kinds(report)] == [["whole", "ngrams"]] and report.items[0].covered == 1.0
    assert (
        report.items[0].matches["whole"].passage
        == "q [the baker s twin sons share forty rolls between four hungry neighbours] a 10"
    )


def test_questions_of_one_template_are_told_apart_by_what_they_fill_in() -> None:
    items = [
        item(f"How many words are in the list {fill}?") for fill in ("red hat owl", "cow sun box", "tree fox", "hen")
    ]
    assert check(items, "How many words are in the list red hat moon?").clean
    assert [f.matches["whole"].rows for f in check(items, "How many words are in the list cow sun box?").items] == [1]


def test_the_order_of_rows_and_their_number_of_copies_decide_nothing_else() -> None:
    texts = [f"{DUCKS[: 60 + 5 * number]} x{number}" for number in range(8)] + [SUM, DUCKS, f"so {SUM} 85"] * 4
    rows = [TrainingText(f"train:{number}", (text,)) for number, text in enumerate(texts, start=1)]
    index = ContaminationIndex([item(SUM, "85", name="a"), item(DUCKS, name="b"), item(f"{DUCKS} No!", name="c")])
    reports = []
    for seed in range(4):
        random.Random(seed).shuffle(rows)
        reports.append(find_contamination(index, rows))
    assert all(report == reports[0] for report in reports)
    assert reports[0].items[0].matches["whole"].row_ids == ("train:9", "train:11", "train:12", "train:14", "train:15")


def test_nothing_against_nothing_is_clean() -> None:
    assert check([]).clean and check([], SUM).clean and check([item(SUM)]).clean
    report = check([item(SUM)], "", " \n ")
    assert (report.num_rows, report.num_words, report.clean) == (2, 0, True)
    assert check([item("")], "").too_short == ("test:1",)


def test_rows_to_drop_are_named_with_the_reason() -> None:
    index = ContaminationIndex([item(SUM, name="test:7")])
    rows = [TrainingText("train:1", ("fine",)), TrainingText("train:2", ("fine", f"so {SUM}"))]
    assert list(find_contaminating_rows(index, rows)) == [("train:2", "whole: test:7: so [what is 47 + 38]")]


def test_every_message_of_every_kind_of_row_is_read() -> None:
    user, reply = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
    call = {"type": "function", "function": {"name": "f", "arguments": {"place": "Bern", "days": [1, 2]}}}
    thinking = {"role": "assistant", "content": None, "reasoning_content": "R", "tool_calls": [call]}
    read = {
        "text": Example("1", "text", text="T"),
        "messages": Example(
            "1", "messages", messages=[{"role": "system", "content": "S"}, user, reply, user, thinking]
        ),
        "prompt": Example("1", "prompt", messages=[user], columns={"answer": 7, "level": "hard"}),
        "preference": Example("1", "preference", messages=[user], chosen=[reply], rejected=[{**reply, "content": "B"}]),
    }
    texts = {kind: read_training_text(row).texts for kind, row in read.items()}
    assert texts == {
        "text": ("T",),
        "messages": ("S\nQ\nA\nQ\n", "R", "place\nBern\ndays\n1\n2"),
        "prompt": ("Q\n7",),
        "preference": ("Q\nA", "Q\nB"),
    }


def test_an_item_is_read_from_examples_and_problems() -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Q"}]
    reply = {"role": "assistant", "content": "A"}
    assert read_item(Example("r", "messages", messages=[*messages, reply])) == item("Q", "A", name="r")
    assert read_item(Example("r", "messages", messages=[*messages, reply], columns={"answer": 3})).answers == ("3",)
    ending = [*messages, {"role": "assistant", "content": "Hm."}, reply]
    assert read_item(Example("r", "messages", messages=ending)) == item("Q", "A", name="r")
    assert read_item(Example("r", "preference", messages=messages, chosen=[reply], rejected=[])).answers == ("A",)
    assert read_item(Example("r", "text", text="T")) == item("T", name="r")
    problem = Problem("p", messages, {"ground_truth": ["x", 2.5], "content_keys": ["k"]})
    assert read_item(problem) == item("Q", "x", "2.5", keys=("k",), name="p")


@pytest.mark.parametrize("keys", ["Elmridge", [""], [3], {"a": "b"}])
def test_content_keys_that_are_no_texts_are_refused(keys: Any) -> None:
    with pytest.raises(DataError, match="content_keys") as refused:
        read_item(Problem("p:9", [{"role": "user", "content": "Q"}], {"content_keys": keys}))
    assert refused.value.place == "p:9" and refused.value.cure


def test_a_key_without_a_word_and_settings_out_of_range_are_refused() -> None:
    with pytest.raises(DataError, match="no word"):
        ContaminationIndex([item(SUM, keys=("?!",))])
    for name, value in {"ngram": 1, "threshold": 0.0, "min_words": 0, "boilerplate_fraction": 1.5}.items():
        with pytest.raises(RecipeError, match=name):
            parse_config(ContaminationSettings, {name: value}, place="contamination")


HOSTILE = {
    "a word repeated": "spam " * 100_000,
    "two words repeated": "spam ham " * 50_000,
    "a long text": " ".join(f"n{number}" for number in range(50_000)),
    "no spaces": "x" * 1_000_000,
    "operators": "- + " * 100_000,
    "marks": "e" + "\u0301" * 300_000,
}


@pytest.mark.invariants
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_text_is_found_in_itself_as_item_and_as_row(name: str) -> None:
    """Nothing is quadratic in any of these: the suite would not end if it were."""
    text = HOSTILE[name]
    report = check(
        [item(f"begin the long one here {text} and end"), item(SUM, name="short")], f"{SUM} {text}" * 2, text
    )
    assert "short" in [found.item_id for found in report.items]
    report = check([item(f"begin the long one here {text} and end")], f"so begin the long one here {text} and end it")
    assert "whole" in kinds(report)
    assert all(len(match.passage) < 2_000 for match in report.items[0].matches.values())


WORDS = st.lists(
    st.sampled_from(["red", "Hat", "owl,", "47", "+", "(x", "-", "é", "漢字", "so."]), min_size=1, max_size=40
)


@given(st.lists(WORDS, min_size=1, max_size=12), st.data(), WORDS, WORDS)
@settings(max_examples=300, deadline=None)
def test_an_item_planted_word_for_word_is_always_found(
    questions: list[list[str]], data: st.DataObject, before: list[str], after: list[str]
) -> None:
    items = [item(" ".join(question), name=str(number)) for number, question in enumerate(questions)]
    planted = data.draw(st.integers(0, len(items) - 1))
    report = check(items, " ".join([*before, items[planted].question, *after]))
    is_long_enough = len(read_words(items[planted].question)) >= report.settings.min_words
    assert (str(planted) in [found.item_id for found in report.items]) or not is_long_enough
    assert (str(planted) in report.too_short) is not is_long_enough


@pytest.mark.invariants
@pytest.mark.real_data
def test_gsm8k_test_questions_are_not_in_its_training_split_word_for_word(real_data: Path) -> None:
    columns = {"prompt": "question", "completion": "answer"}
    train, _ = load_examples([DataSource(source="math/gsm8k_train.jsonl.gz", columns=columns)], root=real_data)
    test, _ = load_examples([DataSource(source="math/gsm8k_test.jsonl", columns=columns)], root=real_data)
    index = ContaminationIndex(map(read_item, test))
    report = find_contamination(index, map(read_training_text, train))
    assert (report.num_items, report.num_rows, report.too_short) == (1319, 7473, ())
    assert report.counts == {
        "whole": 0,
        "ngrams": 2,
        "answered": 0,
        "near": 0,
        "key": 0,
    }  # two stories told with other figures
    again = find_contamination(index, map(read_training_text, test))
    assert again.counts == {"whole": 1319, "ngrams": 1319, "answered": 1319, "near": 0, "key": 0}
