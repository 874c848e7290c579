"""The strict YAML reader: one meaning a text, a line for every key, and no constructor ever run."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.core.errors import RecipeError
from posttrain.pipeline.yaml_reader import MAX_BYTES, read_yaml


def read(text: str) -> Any:
    return read_yaml(text, "demo.yaml")[0]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1E5", 1e5),
        ("5e-324", 5e-324),
        ("-.5", -0.5),
        ("3.", 3.0),
        ("017", 17),
        ("0o17", 15),
        ("0x1F", 31),
        ("-3", -3),
        ("~", None),
        ("null", None),
        ("true", True),
        ("yes", "yes"),
        ("off", "off"),
        ("1_000", "1_000"),
        ("2024-07-26", "2024-07-26"),
        ("12:30:00", "12:30:00"),
        ("'1e-5'", "1e-5"),
        ('"null"', "null"),
        ("", None),
    ],
)
def test_scalars_mean_what_yaml_1_2_says(text: str, value: Any) -> None:
    found = read(f"key: {text}")["key"]
    assert found == value and type(found) is type(value)


def test_every_key_has_its_line_and_column() -> None:
    _, positions = read_yaml("a:\n  b: 1\n  c:\n    - {d: 2}\n", "demo.yaml")
    assert positions.describe(("a", "b")) == "demo.yaml:2:3 (a.b)"
    assert positions.describe(("a", "c", 0, "d")) == "demo.yaml:4:8 (a.c.0.d)"
    assert positions.describe(("a", "missing")) == "demo.yaml:1:1 (a.missing)"


@pytest.mark.parametrize(
    ("text", "word", "line"),
    [
        ("a:\n\t- b\n", "tab", 2),
        ("a: 1\nb: 2\na: 3\n", "twice", 3),
        ("a: {b: 1, b: 2}\n", "twice", 1),
        ("a: &x 1\n", "anchor", 1),
        ("a: *x\n", "alias", 1),
        ("&k a: 1\n", "anchor", 1),
        ("<<: {a: 1}\n", "merge key", 1),
        ("a: !!python/object/apply:os.system [id]\n", "tag", 1),
        ("a: !!str 1\n", "tag", 1),
        ("a: !!binary aGk=\n", "tag", 1),
        ("a: ! b\n", "tag", 1),
        ("!!omap\na: 1\n", "tag", 1),
        ("a: 1\n---\nb: 2\n", "second document", 2),
        ("%YAML 1.1\n---\na: yes\n", "directive", 2),
        ("%TAG ! tag:example.com,2000:\n---\na: 1\n", "directive", 2),
        ("1: a\n", "not a text", 1),
        ("null: a\n", "not a text", 1),
        ("? [a, b]\n: 1\n", "list or a mapping", 1),
        ("a: .nan\n", "not finite", 1),
        ("a: -.inf\n", "not finite", 1),
        ("a: 1e999\n", "too large", 1),
        ("a: 99999999999999999999\n", "64 bits", 1),
        ("a: " + "9" * 5000 + "\n", "64 bits", 1),
        ('a: "\\ud800"\n', "surrogate", 1),
        ("a: [1, 2\n", "expected ',' or ']'", 2),
        ("a: b: c\n", "mapping values", 1),
        ("a: 'open\n", "end of stream", 2),
        ("a: \x07\n", "special characters", 1),
        ("a: @b\n", "cannot start", 1),
        ("a: " + "[" * 40 + "]" * 40 + "\n", "32 levels", 1),
        ("a: " + "{b: " * 40 + "1" + "}" * 40 + "\n", "32 levels", 1),
        ("- " * 50 + "a\n", "32 levels", 1),
    ],
)
def test_what_has_two_meanings_or_hides_its_size_is_refused_with_its_line(text: str, word: str, line: int) -> None:
    with pytest.raises(RecipeError) as caught:
        read(text)
    assert word in caught.value.found
    assert caught.value.place.startswith(f"demo.yaml:{line}")


def test_an_alias_bomb_is_refused_at_its_first_anchor() -> None:
    levels = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    with pytest.raises(RecipeError, match="anchor"):
        read("\n".join(levels))


@pytest.mark.parametrize(
    "text", ["[" * 200_000, "{" * 200_000, "- " * 100_000, "? " * 100_000, "a: |\n" + " x\n" * 90_000]
)
def test_deep_and_large_texts_are_refused_without_recursion(text: str) -> None:
    with pytest.raises(RecipeError):
        read(text)


def test_the_largest_text_is_read_and_one_byte_more_is_not() -> None:
    text = "a: " + "x" * (MAX_BYTES - 3)
    assert len(read(text)["a"]) == MAX_BYTES - 3
    with pytest.raises(RecipeError, match="256 kB"):
        read(text + "x")


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(alphabet=st.sampled_from(list("ab:-[]{}&*!|>'\"#%@,?~ \n\t01.e\\\x00é\u2028")), max_size=60))
def test_any_text_is_read_or_refused_and_never_breaks_the_reader(text: str) -> None:
    try:
        value = read(text)
    except RecipeError as error:
        assert error.place.startswith("demo.yaml")
    else:
        assert value is None or isinstance(value, str | int | float | bool | list | dict)
