"""Claims: what the grammar reads, what it never takes for a claim, and what the knowledge base says of each."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.scorers.claims import extract_claims, judge_claim
from posttrain.scorers.knowledge_base import build_knowledge_base

BASE = build_knowledge_base(
    [
        {
            "entity": "Australia",
            "attribute": "capital",
            "value": "Canberra",
            "entity_aliases": ["Commonwealth of Australia"],
        },
        {"entity": "France", "attribute": "capital", "value": "Paris"},
        {"entity": "United States", "attribute": "capital", "value": "Washington, D.C.", "entity_aliases": "US|USA"},
        {"entity": "Isle of Man", "attribute": "capital", "value": "Douglas"},
        {"entity": "Switzerland", "attribute": "official language", "value": "French"},
        {"entity": "Switzerland", "attribute": "official language", "value": "German"},
        {"entity": "Eiffel Tower", "attribute": "height", "value": "330"},
        {"entity": "Mozart", "attribute": "birth date", "value": "27 January 1756"},
        {"entity": "St. Louis", "attribute": "country", "value": "US"},
        {"entity": "Super Smash Bros. Melee", "attribute": "country of origin", "value": "Japan"},
        {"entity": "Turkana", "attribute": "location", "value": "Kenya"},
    ],
    attributes=[
        {"attribute": "capital", "attribute_aliases": ["capital city"]},
        {"attribute": "official language", "attribute_aliases": ["official languages"], "multiple": True},
        {"attribute": "height", "type": "number", "unit": "m", "tolerance": "1%"},
        {"attribute": "birth date", "type": "date"},
        {"attribute": "location", "patterns": ["{entity} lies in {value}"]},
    ],
)


def verdicts(text: str) -> list[str]:
    return [judge_claim(claim, BASE).verdict for claim in extract_claims(text, BASE).claims]


@pytest.mark.parametrize(
    "text",
    [
        "The capital of Australia is Canberra.",
        "The capital city of the Commonwealth of Australia is Canberra!",
        "**Australia's capital is Canberra.**",
        "Australia\u2019s capital is currently Canberra",
        "- Australia | capital | Canberra",
        "1. The capital of Australia is Canberra.",
        '{"entity": "australia", "attribute": "Capital", "value": "canberra"}',
        '```json\n[\n{"entity": "Australia", "attribute": "capital", "value": "Canberra"}\n]\n```',
        '{"claims": [{"entity": "Australia", "attribute": "capital", "value": "Canberra", "verdict": "ignored"}]}',
        "The capital of Isle of Man is Douglas.",
        "The capital of the USA is Washington, D.C.",
        "The country of St. Louis is the United States.",
        "The country of origin of Super Smash Bros. Melee is Japan.",
        "The height of the Eiffel Tower is 0.331 km.",
        "The height of the Eiffel Tower is 1083 feet.",
        "The height of the Eiffel Tower is about 330 m.",
        "Mozart's birth date was January 27, 1756.",
        "Mozart's birth date was 1756.",
        "Turkana lies in Kenya.",
        "It is late. The capital of France is Paris.",
    ],
)
def test_a_true_claim_is_supported_in_every_form(text: str) -> None:
    assert verdicts(text) == ["supported"]


@pytest.mark.parametrize(
    "text",
    [
        "The capital of Australia is Sydney.",
        "The capital of Australia is Canberraville.",
        "The capital of Australia is Washington, D.C.",
        "Australia | capital | Sydney",
        '{"entity": "Australia", "attribute": "capital", "value": "Sydney"}',
        "The height of the Eiffel Tower is 300 m.",
        "Mozart's birth date was January 27, 1757.",
        "Turkana lies in Uganda.",
        "The capital of Australia is not Canberra.",
        "The capital of Australia isn't Canberra.",
        "The capital of Australia was never Canberra.",
        "The capital of Australia is no longer Canberra.",
        "Australia | capital | not Canberra",
        '{"entity": "Australia", "attribute": "capital", "value": "Canberra", "negated": true}',
    ],
)
def test_a_false_claim_and_a_denial_of_a_true_one_are_contradicted(text: str) -> None:
    assert verdicts(text) == ["contradicted"]


@pytest.mark.parametrize(
    "text",
    [
        "The capital of Australia is probably Canberra.",
        "The capital of Australia is said to be Canberra.",
        "The capital of Australia is anything but Canberra.",
        "The capital of Australia is hardly Canberra.",
        "The capital of Australia is Canberra. That is false.",
        "The capital of Australia is Canberra.\nThis isn't true.",
        "The capital of Australia is Canberra. None of this is true.",
        "The capital of Australia is Canberra.\n\nAll of the above is made up.",
        "The following statements are false:\n- The capital of Australia is Canberra.",
        "Common myths:\nAustralia | capital | Canberra",
        "The capital of Australia is Canberra or Sydney.",
        "The capital of Australia is Canberra, Sydney.",
        "The capital of Australia is Canberra is what some say.",
        "Nobody says Australia's capital is Canberra.",
        "The capital of Atlantis is Poseidonis.",
        "Australia | anthem | Waltzing Matilda",
        "The official language of Switzerland is Romansh.",
        "The height of the Eiffel Tower is about 300 m.",
        "The height of the Eiffel Tower is more than 330 m.",
        "Mozart's birth date was in spring.",
        "The official languages of Switzerland are French or German.",
    ],
)
def test_what_is_hedged_taken_back_or_not_known_is_unknown_and_never_supported(text: str) -> None:
    assert verdicts(text) == ["unknown"]


@pytest.mark.parametrize(
    "text",
    [
        "Is the capital of Australia Canberra?",
        "The capital of Australia is Canberra?",
        "It is false that the capital of Australia is Canberra.",
        "If the capital of Australia is Canberra, then so be it.",
        "Canberra is lovely.",
        "Its capital is Canberra.",
        "Turkana never lies in Kenya.",
        "I doubt that the capital of Australia is Canberra.",
        "The myth that the capital of Australia is Sydney lives on.",
        '{"verdict": "correct", "score": 1}',
        "The capital of Australia is " + "x" * 2000,
        "[" * 50_000,
    ],
)
def test_what_the_grammar_does_not_read_is_no_claim_and_is_counted(text: str) -> None:
    found = extract_claims(text, BASE)
    assert (found.claims, found.num_unread) == ([], 1)


def test_a_list_is_a_claim_for_each_value_where_an_attribute_admits_several() -> None:
    assert verdicts("The official languages of Switzerland are French, German and Italian.") == [
        "supported",
        "supported",
        "unknown",
    ]
    assert verdicts("The official languages of Switzerland are not French or German.") == [
        "contradicted",
        "contradicted",
    ]


def test_a_true_denial_is_supported_and_marked_as_one() -> None:
    judged = [
        judge_claim(claim, BASE) for claim in extract_claims("The capital of Australia is not Sydney.", BASE).claims
    ]
    assert [(item.verdict, item.claim.is_negated) for item in judged] == [("supported", True)]


def test_a_claim_said_again_in_other_words_for_the_same_is_no_second_one() -> None:
    text = "The capital of Australia is Canberra.\nCommonwealth of Australia | Capital city | CANBERRA\n"
    assert verdicts(text + "Australia's capital is Canberra!") == ["supported"]
    assert verdicts("Eiffel Tower | height | 330 m\nEiffel Tower | height | 0.33 km") == ["supported"]


def test_a_claim_that_is_taken_back_once_stays_so() -> None:
    claim = "The capital of Australia is Canberra. "
    assert verdicts(claim + "That is false. " + claim) == verdicts(claim + claim + "That is false.") == ["unknown"]


def test_a_denial_above_a_list_ends_with_its_paragraph() -> None:
    text = "Common myths:\nAustralia | capital | Sydney\n\nThe truth:\nAustralia | capital | Canberra"
    assert verdicts(text) == ["unknown", "supported"]
    assert verdicts("The capital of Australia is Canberra. All of this is true.") == ["supported"]


def test_a_denial_that_speaks_of_another_sentence_takes_nothing_back() -> None:
    text = "The capital of France is Paris. It is false that the capital of Australia is Sydney."
    assert verdicts(text) == ["supported"]


def test_a_long_text_costs_in_proportion_to_its_length() -> None:
    sentence = "The capital of Australia of France of Spain is is is is Canberra. "
    assert len(extract_claims(sentence * 2000, BASE).claims) == 1
    assert extract_claims("is of is of " * 20_000, BASE).num_unread == 1
    for run in ("!", ". ", "*", " ", "| ", "'s ", "[", "{", "\n", "the "):
        assert extract_claims(run * 100_000, BASE).claims == []
        assert extract_claims(f"Switzerland | official language | {run * 100_000} x", BASE).num_unread <= 100_002


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                "The",
                "capital",
                "of",
                "Australia",
                "is",
                "not",
                "Canberra",
                ".",
                "?",
                "'s",
                "|",
                "{",
                "}",
                "[",
                "]",
                '"',
                ",",
                "and",
                "or",
                "\n",
                "```",
                "never",
            ]
        )
    ).map(" ".join)
)
def test_no_text_raises(text: str) -> None:
    for claim in extract_claims(text, BASE).claims:
        assert judge_claim(claim, BASE).verdict in ("supported", "contradicted", "unknown")


def test_json_claims_with_other_content_are_no_claims() -> None:
    for row in ({"entity": "Australia"}, {"entity": "A", "attribute": "b", "value": None}, 7, [], ["x"]):
        assert extract_claims(json.dumps(row), BASE).claims == []
