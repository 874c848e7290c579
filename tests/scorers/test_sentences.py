"""Sentences by rules: plain ends, what is no end, other scripts, and no text that takes long."""

import pytest

from posttrain.scorers.sentences import split_sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three?", 3),
        ("Dr. Ann met Mr. Bo. They left.", 2),
        ("J. R. R. Tolkien wrote it. I did, too.", 2),
        ("So do I. Then we left.", 2),
        ("It costs 3.50 dollars. Really!", 2),
        ('"Is it?" he said. "Yes!" She went.', 3),
        ("Well... maybe. Well... Maybe.", 3),
        ("Wait… what? Wait… What?", 3),
        ("He moved to the U.S. in May. He likes the U.S. The end.", 3),
        ("The U.S. Army came at 5 p.m. on Monday.", 1),
        ("Apples, pears, etc. are fruit. Apples, etc. They are good.", 3),
        ("See e.g. Fig. 3 there. It shows it.", 2),
        ("1. First point\n2. Second point", 1),
        ("1. First point.\n2. Second point.", 2),
        ("It was 1999. It was cold.", 2),
        ("A heading\n\nA sentence.", 1),
        ("(He left.) **She stayed.** _Good._", 3),
        ("它很好。我喜欢它！你呢？", 3),
        ("यह अच्छा है। मैं खुश हूँ।", 2),
        ("no end", 1),
        ("Visit example.com today.", 1),
        ("What?! No!! ...", 2),
        ("", 0),
        ("... !!! ???", 0),
        ("A.", 1),
    ],
)
def test_sentences_are_counted(text, expected):
    assert len(split_sentences(text)) == expected, split_sentences(text)


def test_nothing_that_says_something_is_lost():
    text = "One. Two!  Three\n\nfour? (Five.) six"
    assert "".join(split_sentences(text)).replace(" ", "").replace("\n", "") == text.replace(" ", "").replace("\n", "")


@pytest.mark.parametrize(
    "text",
    [
        "." * 300_000,
        "." * 300_000 + "x",
        '."' * 100_000 + "x",
        "." + "'" * 300_000 + "x",
        ". " * 150_000,
        "." + " " * 300_000,
        "a" * 300_000,
        "1. " * 100_000,
        "\"' " * 100_000,
    ],
)
def test_a_hostile_text_takes_linear_time(text):
    assert isinstance(split_sentences(text), list)


@pytest.mark.parametrize("text", ["a.\u2028B.", "\ud800. \udfff!", "e\u0301. É", "\x00. \x01"])
def test_strange_characters_are_split_like_any(text):
    assert 1 <= len(split_sentences(text)) <= 2 or not any(map(str.isalnum, text))
