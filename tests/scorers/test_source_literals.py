"""Java and JavaScript literals in a text become values; everything else stays the text that it is."""

import pytest

from posttrain.scorers.source_literals import read_literal


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("null", None),
        ("5L", 5),
        ("-7", -7),
        ("3.5f", 3.5),
        ("2e3", 2000.0),
        ('"a, b"', "a, b"),
        ("'x'", "x"),
        ("new int[]{1, 2, 3}", [1, 2, 3]),
        ("new String[] { \"a,b\", 'c' }", ["a,b", "c"]),
        ("new ArrayList<>(Arrays.asList(1, 2))", [1, 2]),
        ("new ArrayList<Integer>() {{ add(1); add(2); }}", [1, 2]),
        ("Arrays.asList(true, false)", [True, False]),
        ("new ArrayList<>()", []),
        ('new HashMap<String, Object>() {{ put("a", 1); put("b", "x, y"); }}', {"a": 1, "b": "x, y"}),
        ("new HashMap<>()", {}),
        ("[1, [2, 'a']]", [1, [2, "a"]]),
        ("{a: 1, 'b': [true]}", {"a": 1, "b": [True]}),
    ],
)
def test_a_literal_becomes_its_value(text, value):
    read = read_literal(text)
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    "text",
    [
        "userInput",
        "new Path('/tmp/x')",
        "ResultSet.TYPE_FORWARD_ONLY",
        "1.2.3",
        "a 'quoted' word",
        "New York, NY",
        "9" * 30,
        "function(x) { return x; }",
        "new HashMap<>() {{" + " " * 50_000,
        "[" * 1_900,
    ],
)
def test_what_is_no_known_literal_stays_a_text(text):
    assert isinstance(read_literal(text), str)


def test_deep_nesting_ends():
    text = "[" * 500 + "]" * 500
    value = read_literal(text)
    depth = 0
    while isinstance(value, list):
        value, depth = (value[0] if value else None), depth + 1
    assert depth <= 9
