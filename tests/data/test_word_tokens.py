"""Words that compare: what is folded, what is kept, and that surroundings change nothing."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from posttrain.data.word_tokens import read_figures_folded, read_words

OPERANDS = "0123x5ab+-*/^=<>%()[]{}$\\_.,!? \nß\u0301ーก漢é\u00ad"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("What is **47 + 38**?", "what is 47 + 38"),
        ("Wｈａｔ　is 47+38", "what is 47 + 38"),
        ("STRASSE straße ﬁne", "strasse strasse fine"),
        ("soft\u00adhy\u200bphen", "softhyphen"),
        ("Janet’s well-known, (blue) hat...", "janet s well known blue hat"),
        ("caf\u00e9 cafe\u0301", "café café"),
        ("5kg = 5 kg", "5 kg = 5 kg"),
        ("3.5 and 1,000", "3 5 and 1 000"),
        ("- 5 apples\n* 3 pears", "5 apples 3 pears"),
        ("____ snake_case", "snake case"),
        ("हिन्दी भाषा", "हिन्दी भाषा"),
        ("天気。 กา", "天 気 ก า"),
        ("?! ... 🙂", ""),
    ],
)
def test_what_hides_a_word_is_folded(text: str, words: str) -> None:
    assert read_words(text) == words.split()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("47 - 38", "47 - 38"),
        ("47−38", "47 - 38"),
        ("47–38", "47 - 38"),
        ("6 × 7 ÷ 2", "6 * 7 / 2"),
        ("$x$ - $y$", "x - y"),
        ("x^2+bx+c", "x ^ 2 + bx + c"),
        ("2**3", "2 ** 3"),
        ("x = -5", "x = - 5"),
        ("f(x) - 1 <= 3", "f x - 1 <= 3"),
        ("½", "1 / 2"),
        ("7 % 3 and 20% of", "7 % 3 and 20 of"),
        ("COVID-19, an 8-gram", "covid 19 an 8 gram"),
    ],
)
def test_operators_are_words_where_they_mean_something(text: str, words: str) -> None:
    assert read_words(text) == words.split()


@example("0<-", "", "0")
@example("-+5", "4", "")
@example("=-=5", "4", "x")
@given(st.text(alphabet=OPERANDS, max_size=30), st.text(alphabet=OPERANDS), st.text(alphabet=OPERANDS))
@settings(max_examples=500, deadline=None)
def test_the_words_of_a_text_stand_together_wherever_it_stands(text: str, before: str, after: str) -> None:
    words, around = read_words(text), read_words(f"{before}\n{text} {after}")
    assert any(around[start : start + len(words)] == words for start in range(len(around) - len(words) + 1))


@given(st.text(max_size=200))
@settings(max_examples=200, deadline=None)
def test_case_and_spacing_change_no_word(text: str) -> None:
    words = read_words(text)
    assert read_words(text.casefold()) == words
    assert read_words("\n " + text.replace(" ", " \t\n ") + " ") == words


@pytest.mark.parametrize(
    "text",
    [
        "He sold 1000 hats to 7 of 21 men",
        "He sold 1,000 hats to seven of twenty-one men",
        "HE SOLD １,０００ HATS to SEVEN of Twenty‑One men",
        "he sold ١٠٠٠ hats to ٧ of ٢١ men",
    ],
)
def test_a_number_is_read_alike_however_it_is_written(text: str) -> None:
    assert read_figures_folded(text)[0] == ["he", "sold", "1000", "hats", "to", "7", "of", "21", "men"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("47 + 38", "47 + 38"),
        ("47 - 38", "47 - 38"),
        ("forty-seven − thirty-eight", "47 - 38"),
        ("(1,234,567) and 12,34 and 1,2345", "1234567 and 12 34 and 1 2345"),
        ("twenty one-armed men, two hundred", "20 1 armed men 2 hundred"),
        ("seventy-ones someone stone", "70 ones someone stone"),
        ("3.5 of 10,000.25", "3 5 of 10000 25"),
    ],
)
def test_folding_figures_keeps_operators_and_other_numbers_apart(text: str, words: str) -> None:
    folded, shown = read_figures_folded(text)
    assert folded == words.split() and len(shown) == len(folded)


@given(
    st.lists(st.sampled_from(["seven", "twenty-one", "1,000", "٧", "x", "-", "+ 5"]), max_size=8).map(" ".join),
    st.sampled_from(["", "twenty", "1", "1,", "x-"]),
    st.sampled_from(["", "one", "000", "-one"]),
)
@settings(max_examples=200, deadline=None)
def test_figures_are_folded_alike_wherever_a_text_stands(text: str, before: str, after: str) -> None:
    words, around = read_figures_folded(text)[0], read_figures_folded(f"{before} {text} {after}")[0]
    assert any(around[start : start + len(words)] == words for start in range(len(around) - len(words) + 1))
