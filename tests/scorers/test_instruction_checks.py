"""Each of IFEval's 25 kinds of instructions: replies that follow it, others, arguments that cannot be used."""

import pytest

from posttrain.core.errors import DataError
from posttrain.scorers.arguments import Arguments
from posttrain.scorers.instructions import CONSTRAINTS

GERMAN = "Das ist ein ganz gewöhnlicher deutscher Satz über das Wetter und die Leute."
ENGLISH = "this is a plain english sentence about the weather and the people of the town"

# id, arguments, replies that follow, replies that do not
CASES = [
    ("keywords:existence", {"keywords": ["river", "Oak"]}, ["Rivers and oaks."], ["A river.", "Oak trees."]),
    (
        "keywords:frequency",
        {"keyword": "bird", "frequency": 2, "relation": "at least"},
        ["A bird, a BIRD.", "birdbird"],
        ["One bird."],
    ),
    ("keywords:frequency", {"keyword": "bird", "frequency": 1, "relation": "less than"}, ["A cat."], ["A bird."]),
    ("keywords:forbidden_words", {"forbidden_words": ["can", "run."]}, ["A canister."], ["It CAN.", "yes, can"]),
    (
        "keywords:letter_frequency",
        {"letter": "q", "let_frequency": 2, "let_relation": "at least"},
        ["Quick quiz"],
        ["Quick"],
    ),
    ("keywords:letter_frequency", {"letter": "#", "let_frequency": 1, "let_relation": "less than"}, ["a"], ["# a"]),
    ("language:response_language", {"language": "de"}, [GERMAN], [ENGLISH, "12345"]),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 3, "relation": "at least"},
        ["One. Two! Three?", "Dr. Ann left. He stayed. So it goes."],
        ["Dr. Ann met Mr. Bo. They left.", "One. Two. ...", "One... two"],
    ),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "less than"}, ["One."], ["One. Two."]),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        ["one\n***\ntwo", "***\none\n***\ntwo\n***"],
        ["one\n\ntwo", "one\n***\n***\ntwo", "one\n***\ntwo\n***\nthree"],
    ),
    (
        "length_constraints:number_words",
        {"num_words": 4, "relation": "at least"},
        ["one two three four", "don't go now"],
        ["one two three", "- - - -"],
    ),
    (
        "length_constraints:number_words",
        {"num_words": 3.0, "relation": "less than"},
        ["one two"],
        ["one two three"],
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "President"},
        ["One here.\n\npresident, he said.", "One.\n\n'President' was"],
        ["president\n\nOne.", "One.\n\nThe president.", "One.\n\n\n\npresident", "a\n\npresident\n\nc"],
    ),
    (
        "detectable_content:number_placeholders",
        {"num_placeholders": 2},
        ["[name] of [town]", "[a][b]"],
        ["[name] of town", "[name of\ntown] and [x]", "[[a]"],
    ),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, ["Bye.\nP.S. more", "p. s. more"], ["PS more"]),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, ["P.P.S more", "p. p.s. x"], ["P.S. more"]),
    (
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        ["* one\n* two", "Intro\n- one\n  * two"],
        ["* one", "* one\n* two\n* three", "** bold\n* one", "1. one\n2. two"],
    ),
    (
        "detectable_format:constrained_response",
        {},
        ["My answer is yes.", "Well. My answer is maybe."],
        ["Yes.", "My answer is no", "My answer is yes. My answer is no. My answer is maybe."],
    ),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        ["*one* and *two*", "**one** and *two*"],
        ["*one*", "** ** * *", "*one\n* two"],
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Section", "num_sections": 2},
        ["Section 1\na\nSection 2\nb", "Section1 a Section2 b"],
        ["Section 1 a", "section 1 a section 2 b", "Section one\nSection two"],
    ),
    (
        "detectable_format:json_format",
        {},
        ['{"a": 1}', '```json\n{"a": [1]}\n```', "```\n[1]\n```"],
        ["{'a': 1}", '{"a": 1} done', '{"a": NaN}', '{"a": 1, "a": 2}'],
    ),
    (
        "detectable_format:title",
        {},
        ["<<A poem>>\nText", "x <<<y>>>"],
        ["<A poem>", "<<A\npoem>>", "<< >> a", ">>a<<", "<<<>>> a"],
    ),
    (
        "combination:two_responses",
        {},
        ["one\n******\ntwo", "******\none\n******\ntwo"],
        ["one", "one\n******\none", "a******b******c", "a************b"],
    ),
    (
        "combination:repeat_prompt",
        {"prompt_to_repeat": "Write a poem."},
        ["Write a poem.\nRoses are red", "write A poem. Fine"],
        ["Roses are red. Write a poem.", "Write a poem.", "Write a poem. ..."],
    ),
    (
        "startend:end_checker",
        {"end_phrase": "That is all!"},
        ["So. that is ALL!", '"x That is all!"'],
        ["That is all! Bye"],
    ),
    ("startend:quotation", {}, ['"All of it."', ' "a" '], ['"Half" of it', "“All of it.”", '"']),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        ["NASA and I", "COVID-19 in the USA"],
        ["Nasa and I", "a WELL-KNOWN one"],
    ),
    ("change_case:english_capital", {}, [ENGLISH.upper()], [ENGLISH, GERMAN.upper(), "123 456"]),
    ("change_case:english_lowercase", {}, [ENGLISH], [ENGLISH.capitalize(), GERMAN.lower(), "123 456"]),
    ("punctuation:no_comma", {}, ["None here."], ["One, here."]),
]


def build_check(name, values):
    return CONSTRAINTS[name](Arguments(values, owner=name, place="row-1"))


@pytest.mark.parametrize(("name", "values", "right", "wrong"), CASES, ids=[case[0] for case in CASES])
def test_replies_that_follow_pass_and_others_fail_with_a_reason(name, values, right, wrong):
    check = build_check(name, values)
    assert [(text, check(text)) for text in right if check(text) is not None] == []
    assert [text for text in wrong if not check(text)] == []


def test_every_kind_of_the_paper_has_cases_that_pass_and_fail():
    assert len(CONSTRAINTS) == 25
    assert {case[0] for case in CASES} == set(CONSTRAINTS)
    assert all(case[2] and case[3] for case in CASES)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("length_constraints:number_words", {"num_words": 3}),
        ("length_constraints:number_words", {"num_words": "3", "relation": "at least"}),
        ("length_constraints:number_words", {"num_words": True, "relation": "at least"}),
        ("length_constraints:number_words", {"num_words": -1, "relation": "at least"}),
        ("length_constraints:number_words", {"num_words": 3, "relation": "about"}),
        ("keywords:existence", {"keywords": []}),
        ("keywords:existence", {"keywords": "river"}),
        ("keywords:letter_frequency", {"letter": "ab", "let_frequency": 1, "let_relation": "at least"}),
        ("combination:repeat_prompt", {"prompt_to_repeat": None}),
        ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 1, "nth_paragraph": 2, "first_word": "a"}),
    ],
)
def test_arguments_that_cannot_be_used_are_an_error_of_the_data_that_names_the_row(name, values):
    with pytest.raises(DataError) as caught:
        build_check(name, values)
    assert caught.value.place == "row-1"
    assert name in str(caught.value) or "of 1" in str(caught.value)


HOSTILE = ["[" * 200_000, "<<" * 100_000, "*" * 200_000, "\n" * 200_000, " " * 200_000, "P. " * 60_000, '\\"' * 100_000]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:3]))
def test_no_check_takes_more_than_linear_time_on_a_hostile_text(text):
    """Quadratic patterns would need 10^10 steps here, and the run would never come to its end."""
    reasons = [build_check(name, values)(text + "x") for name, values, _, _ in CASES]
    assert len(reasons) == len(CASES)
