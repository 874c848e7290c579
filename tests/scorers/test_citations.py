"""Citations: what a source supports, what stays undecided, and that no way of citing wins but the right one."""

from __future__ import annotations

import time
from typing import Any

import pytest

from posttrain.core.errors import DataError
from posttrain.core.records import Outcome
from posttrain.scorers.citation_support import Passage, read_terms
from posttrain.scorers.citations import CitationScorer
from posttrain.scorers.knowledge_base import build_knowledge_base
from tests.scorers.fact_items import make_item, score_everywhere

SOURCES: dict[str, Any] = {
    "1": "Paris is the capital of France. It has 2.1 million inhabitants. "
    "The Eiffel Tower opened on 31 March 1889 and is 330 m tall.",
    "2": "Berlin is the capital of Germany. Sales rose 5% in 2017 and 7% in 2018. Germany beat France in 2014.",
    "doc-3": {"entity": "Australia", "attribute": "capital", "value": "Canberra"},
}
HONEST = "Paris is the capital of France [1]. Berlin is the capital of Germany [2]."


def score(text: str, sources: Any = SOURCES, finish_reason: Any = "stop", **settings: Any) -> Outcome:
    return CitationScorer(**settings).score([make_item(text, {"sources": sources}, finish_reason=finish_reason)])[0]


@pytest.mark.parametrize(
    "text",
    [
        "Paris is the capital of France [1].",
        "Paris is the capital of France.[1]",
        "Paris is the capital of France. [1] Berlin is the capital of Germany. [2]",
        "- Paris is the capital of France [1]",
        "The Eiffel Tower opened in 1889 [1].",
        "The Eiffel Tower opened in March 1889 [1].",
        "The Eiffel Tower opened on 1889-03-31 [1].",
        "Sales rose 5% in 2017 [2].",
        "Sales rose 5 percent in 2017 [2].",
        "The capital of Australia is Canberra [doc-3].",
        "Australia's capital is Canberra [doc-3].",
        "# Capitals\nIs it so?\nParis is the capital of France [1].",
    ],
)
def test_a_sentence_that_its_source_says_is_supported_and_covered(text: str) -> None:
    outcome = score(text)
    assert (outcome.status, outcome.value) == ("scored", 1.0), outcome.why
    assert (outcome.parts["resolved"], outcome.parts["supported"], outcome.parts["coverage"]) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("Paris is the capital of Germany [1].", "'Germany' is not in the source"),
        ("The Eiffel Tower opened on 1 April 1889 [1].", "'1 April 1889' is not in the source"),
        ("The Eiffel Tower is 331 m tall [1].", "'331 m' is not in the source"),
        ("Paris is not the capital of France [1].", "'not' is not in the source"),
        ("Sales may have risen 5% in 2017 [2].", "'may' is not in the source"),
        ("The capital of Australia is Sydney [doc-3].", "capital is Canberra"),
        ("The capital of Australia is not Canberra [doc-3].", "capital is Canberra"),
    ],
)
def test_what_a_source_does_not_hold_is_unsupported_with_the_reason(text: str, why: str) -> None:
    outcome = score(text)
    assert (outcome.value, outcome.parts["supported"], outcome.parts["undecided"]) == (0.0, 0.0, 0.0)
    assert why in outcome.why


@pytest.mark.parametrize(
    "text",
    [
        "France beat Germany in 2014 [2].",
        "Sales rose 5% in 2018 [2].",
        "Paris is the lovely capital of France [1].",
        "Paris has 2.1 million inhabitants [1].",
        "Sydney is lovely [doc-3].",
        "See [1].",
    ],
)
def test_what_rules_cannot_judge_is_said_to_be_undecided_and_is_worth_what_the_setting_says(text: str) -> None:
    outcome = score(text)
    assert (outcome.value, outcome.parts["supported"], outcome.parts["undecided"]) == (0.0, 0.0, 1.0)
    assert score(text, undecided_value=0.5).value == 0.5


@pytest.mark.parametrize(
    ("claim", "passage"),
    [
        ("The drug increases mortality", "The drug increases survival and decreases mortality."),
        ("Sales in Germany rose", "Sales in Germany fell and sales in France rose."),
        ("Profits rose 5%", "Sales rose 5% and profits rose 7%."),
        ("The drug cures cancer", "The drug may cure cancer."),
        ("The drug cures cancer", "It is not true that the drug cures cancer."),
        ("The tower cost 5 dollars", "The tower cost more than 5 dollars."),
        ("Smith won", "Smith said that Jones won."),
        ("Water boils at 100 degrees", "Water. It boils. At 100 degrees."),
    ],
)
def test_words_of_a_source_put_together_anew_do_not_support_a_claim(claim: str, passage: str) -> None:
    assert Passage(passage).judge(read_terms(claim))[0] != "supported"


def test_an_invented_id_makes_the_whole_worthless() -> None:
    outcome = score(HONEST + " Paris is the capital of France [7].")
    assert (outcome.value, outcome.why) == (0.0, "[7] is no source")
    assert outcome.parts["resolved"] == pytest.approx(2 / 3)


def test_every_id_on_every_sentence_does_not_pay() -> None:
    """Two sentences, three ids each: 2 of 6 supported, coverage 1: 2 * (1/3) / (4/3) = 1/2."""
    spam = "Paris is the capital of France [1][2][doc-3]. Berlin is the capital of Germany [1, 2; doc-3]."
    assert score(HONEST).value == 1.0
    assert score(spam).value == pytest.approx(0.5)
    assert score(spam).parts["coverage"] == 1.0


def test_uncited_sentences_are_counted_and_lower_the_coverage() -> None:
    """One of two sentences cited and supported: 2 * 1 * (1/2) / (3/2) = 2/3."""
    outcome = score("Paris is the capital of France [1]. Lyon is the capital of Italy.")
    assert outcome.value == pytest.approx(2 / 3)
    assert (outcome.parts["uncited"], outcome.parts["coverage"]) == (1.0, 0.5)
    assert score("Paris is the capital of France.").value == 0.0


def test_a_sentence_said_again_counts_once_with_the_ids_of_both() -> None:
    assert score("Paris is the capital of France [1]. " * 5).parts["sentences"] == 1.0
    assert (
        score(("Paris is the capital of France [1]. " * 5) + "Lyon is the capital of Italy.").parts["coverage"] == 0.5
    )


def test_a_link_is_no_citation_and_another_pattern_may_be_declared() -> None:
    assert score("Paris is the capital of France [1](http://x).").parts["citations"] == 0.0
    assert score("Paris is the capital of France (ref 1).", pattern=r"\(ref (\w+)\)").value == 1.0
    for pattern in (r"\[\d+\]", r"\[(\d)(\d)\]"):
        with pytest.raises(ValueError, match="one group"):
            CitationScorer(pattern=pattern)
    with pytest.raises(ValueError, match="undecided_value"):
        CitationScorer(undecided_value=2.0)


def test_a_source_may_be_an_entity_of_the_knowledge_base_and_speaks_of_it_alone() -> None:
    base = build_knowledge_base(
        [{"entity": e, "attribute": "capital", "value": v} for e, v in (("France", "Paris"), ("Italy", "Rome"))]
    )
    sources = {"1": {"entity": "France"}, "2": {"entity": "Italy"}}
    assert score("The capital of France is Paris [1].", sources, knowledge_base=base).value == 1.0
    assert score("The capital of France is Paris [2].", sources, knowledge_base=base).value == 0.0
    assert score("The capital of France is Rome [1].", sources, knowledge_base=base).value == 0.0


def test_sources_may_be_a_list_with_the_ids_from_one() -> None:
    assert score("Paris is the capital of France [1].", [SOURCES["1"]]).value == 1.0


@pytest.mark.parametrize(
    "sources", [None, {}, [], "text", {"1": ""}, {"1": 7}, {"1": {"entity": "France"}}, {"1": {"a": 1}}]
)
def test_a_problem_without_usable_sources_is_refused_with_its_row_and_the_cure(sources: Any) -> None:
    with pytest.raises(DataError) as caught:
        score(HONEST, sources)
    assert caught.value.place.startswith("row-1") and caught.value.cure


def test_endings_and_texts_without_a_sentence_are_the_policys_failures() -> None:
    assert score(HONEST, finish_reason="length").status == "truncated"
    for text in ("", "Is it so?", "# Heading", "<think>" + HONEST):
        outcome = score(text)
        assert (outcome.status, outcome.value, outcome.fault) == ("unparsed", 0.0, "policy")


def test_outcomes_are_the_same_from_a_thread_a_forked_process_and_an_event_loop() -> None:
    texts = [HONEST, "", HONEST + " [9]", "The capital of Australia is Canberra [doc-3]."]
    first, *others = score_everywhere(CitationScorer(), [make_item(text, {"sources": SOURCES}) for text in texts])
    assert [outcome.value for outcome in first] == [1.0, 0.0, 0.0, 1.0]
    assert all(other == first for other in others)


def test_long_runs_of_anything_cost_in_proportion_to_their_length() -> None:
    for run in ("!", ". ", "[", "[1", "[1, ", "[1]", "a", " ", "1 ", "Paris ", "(", ".[1]"):
        assert score(f"Paris {run * 50_000} x").value == 0.0


def test_throughput_is_printed() -> None:
    items = [make_item(HONEST, {"sources": SOURCES})] * 1000
    start = time.process_time()
    outcomes = CitationScorer().score(items)
    print(f"citations: {len(items) / (time.process_time() - start):,.0f} completions/s of CPU time")
    assert {outcome.value for outcome in outcomes} == {1.0}
