"""Shaping terms: their formulas by hand, their bounds, and what a failed completion gets."""

import pytest

from posttrain.core.errors import DataError
from posttrain.core.records import Outcome
from posttrain.scorers.exact_match import ExactMatch
from posttrain.scorers.reasoning import ReasoningBlock
from posttrain.scorers.shaping import CosineLength, LanguageMatch, LengthBand, OverlongPenalty, Repetition
from tests.scorers.form_items import build_item, score_everywhere, score_one

GERMAN = "Das ist ein ganz gewöhnlicher deutscher Satz über das Wetter und die Leute."
ENGLISH = "This is a plain English sentence about the weather and the people of the town."


@pytest.mark.parametrize(
    ("length", "expected"), [(0, 0.5), (5, 0.75), (10, 1.0), (20, 1.0), (30, 0.5), (40, 0.0), (99, 0.0)]
)
def test_a_band_falls_linearly_beside_its_ends(length, expected):
    """Low 10, high 20, slope 20: at 5 the distance is 5, so 1 - 5/20."""
    scorer = LengthBand(low=10, high=20, slope=20)
    assert score_one(scorer, "x", num_tokens=length or 1).value == pytest.approx(expected if length else 0.55)


def test_a_band_without_a_slope_is_all_or_nothing_in_any_unit():
    assert score_one(LengthBand(low=2, high=3, unit="words"), "two words").value == 1.0
    assert score_one(LengthBand(low=2, high=3, unit="words"), "one").value == 0.0
    assert score_one(LengthBand(low=2, high=3, unit="characters"), " abc \n").value == 1.0


@pytest.mark.parametrize(
    ("length", "expected"), [(1, 0.0), (80, 0.0), (85, -0.25), (90, -0.5), (100, -1.0), (150, -1.0)]
)
def test_the_overlong_penalty_is_daposs_equation_13(length, expected):
    """Length 100, cache 20: at 85 it is (80 - 85) / 20."""
    outcome = score_one(OverlongPenalty(max_length=100, cache=20), "x", num_tokens=length)
    assert outcome.value == pytest.approx(expected)
    assert str(outcome.value) != "-0.0"


@pytest.mark.parametrize(
    ("text", "length", "expected"),
    [("7", 1, 0.9998), ("7", 50, 0.75), ("7", 100, -1.0), ("8", 50, -0.75), ("8", 99, -0.5001), ("8", 100, -1.0)],
)
def test_cosine_lengths_favour_short_right_answers_and_long_wrong_ones(text, length, expected):
    """At half of the length the cosine is 0, so each value lies in the middle of its two ends."""
    scorer = CosineLength(correctness=ExactMatch(), max_length=100)
    outcome = score_one(scorer, text, {"answer": "7"}, num_tokens=length)
    assert outcome.value == pytest.approx(expected, abs=2e-4)
    assert outcome.parts["is_right"] == float(text == "7")


def test_cosine_lengths_pass_on_what_the_harness_failed_at():
    class Broken:
        name = "broken"

        def score(self, items):
            return [Outcome("errored", 0.0, why="down", fault="harness")] * len(items)

    outcome = score_one(CosineLength(correctness=Broken(), max_length=100), "7")
    assert (outcome.fault, outcome.why) == ("harness", "down")


@pytest.mark.parametrize(
    ("scorer", "lowest"),
    [
        (LengthBand(low=0, high=9), 0.0),
        (OverlongPenalty(max_length=100, cache=20), -1.0),
        (CosineLength(correctness=ExactMatch(), max_length=100), -1.0),
        (LanguageMatch(language="en"), 0.0),
        (Repetition(), 0.0),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_completion_that_failed_gets_the_lowest_value_and_a_cancelled_one_none(scorer, lowest):
    for text, reason, status in ((ENGLISH, "length", "truncated"), ("", "stop", "unparsed")):
        outcome = score_one(scorer, text, {"answer": ENGLISH}, finish_reason=reason)
        assert (outcome.status, outcome.value, outcome.fault) == (status, lowest, "policy")
    assert score_one(scorer, ENGLISH, {"answer": "7"}, finish_reason="cancelled").fault == "harness"


def test_tokens_cannot_be_counted_where_the_sampler_gave_none():
    outcome = score_one(LengthBand(low=0, high=9), "x", num_tokens=0)
    assert (outcome.status, outcome.fault) == ("errored", "harness")


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        (GERMAN, "de", 1.0),
        (ENGLISH, "de", 0.0),
        ("今天天气很好，我们去公园散步吧。", "zh", 1.0),
        (GERMAN + "\n\n" + GERMAN, "de", 1.0),
    ],
)
def test_the_language_of_the_whole_text_is_the_declared_one_or_not(text, language, expected):
    assert score_one(LanguageMatch(), text, {"language": language}).value == expected


def test_by_paragraph_the_share_of_letters_counts():
    text = f"{GERMAN}\n\n{ENGLISH}"
    letters = [sum(map(str.isalpha, part)) for part in (GERMAN, ENGLISH)]
    outcome = score_one(LanguageMatch(language="de", by_paragraph=True), text)
    assert outcome.value == pytest.approx(letters[0] / sum(letters))
    assert "en" in outcome.why


def test_code_is_no_language_and_reasoning_is_taken_off_by_the_setting():
    code = "```python\nfor value in range(10):\n    print(value)\n```"
    assert score_one(LanguageMatch(language="de"), f"{GERMAN}\n\n{code}").value == 1.0
    assert score_one(LanguageMatch(language="de"), code).status == "unparsed"
    text = f"<think>{ENGLISH * 3}</think>{GERMAN}"
    assert score_one(LanguageMatch(language="de"), text).value == 0.0
    assert score_one(LanguageMatch(language="de", reasoning=ReasoningBlock("think")), text).value == 1.0


@pytest.mark.parametrize("columns", [{}, {"language": "klingon"}, {"language": 3}])
def test_a_language_that_cannot_be_told_is_an_error_of_the_data(columns):
    with pytest.raises(DataError, match="language"):
        score_one(LanguageMatch(), GERMAN, columns)


@pytest.mark.parametrize("measure", ["ngrams", "longest_repeat", "compression"])
def test_a_loop_scores_low_and_prose_high_by_every_measure(measure):
    scorer = Repetition(measure=measure, allowed=0.5)
    loop, prose = score_one(scorer, "over and over again " * 100), score_one(scorer, f"{ENGLISH} {GERMAN}")
    assert loop.value < 0.1
    assert prose.value == 1.0
    assert set(loop.parts) == {"ngrams", "longest_repeat", "compression"}


def test_repetition_is_what_exceeds_the_allowance_as_a_share_of_the_rest():
    """`a b a b a` in words has half of its bigrams repeated: 1 - (0.5 - 0.2) / 0.8."""
    assert score_one(Repetition(n=2, allowed=0.2), "a b a b a").value == pytest.approx(1 - 0.3 / 0.8)
    assert score_one(Repetition(n=1, allowed=0.0, unit="characters"), "aaab").value == pytest.approx(0.5)
    assert score_one(Repetition(n=1, allowed=0.0, unit="tokens"), "aaab", num_tokens=4).value == 1.0


@pytest.mark.parametrize(
    "build",
    [
        lambda: LengthBand(low=5, high=4),
        lambda: LengthBand(low=0, high=4, slope=0.0),
        lambda: LengthBand(low=0, high=4, unit="bytes"),
        lambda: OverlongPenalty(max_length=10, cache=0),
        lambda: OverlongPenalty(max_length=10, cache=11),
        lambda: CosineLength(correctness=ExactMatch(), max_length=0),
        lambda: CosineLength(correctness=ExactMatch(), max_length=9, exceeded=float("nan")),
        lambda: LanguageMatch(language="klingon"),
        lambda: Repetition(measure="entropy"),
        lambda: Repetition(allowed=1.0),
        lambda: Repetition(n=0),
    ],
)
def test_settings_out_of_their_range_are_refused(build):
    with pytest.raises(ValueError, match="found"):
        build()


@pytest.mark.parametrize(
    "scorer",
    [
        LengthBand(low=1, high=2, slope=3),
        OverlongPenalty(max_length=5, cache=4),
        CosineLength(correctness=ExactMatch(), max_length=9),
        LanguageMatch(language="de", by_paragraph=True),
        Repetition(),
    ],
    ids=lambda scorer: scorer.name,
)
def test_outcomes_are_the_same_from_a_thread_a_forked_process_and_an_event_loop(scorer):
    texts = [GERMAN, ENGLISH, f"{GERMAN}\n\n{ENGLISH}", "a " * 100]
    items = [build_item(text, {"answer": GERMAN}, num_tokens=4 + number) for number, text in enumerate(texts)]
    first, *others = score_everywhere(scorer, items)
    assert others == [first] * 3
    assert all(-1.0 <= outcome.value <= 1.0 for outcome in first)
