"""Values agree by exact type and declared tolerance, texts up to line ends and trailing white space."""

import pytest

from posttrain.scorers.code_comparison import Comparison, holds_nan, is_plain, outputs_match, show_value, values_match

NAN, INF = float("nan"), float("inf")
LOOSE = Comparison(types="loose")


@pytest.mark.parametrize(
    "value",
    [0, True, None, "", "é", b"a", 1.5, INF, -INF, 2j, [], (), {}, set(), frozenset(), [1, (2, {"a": {3}})], 10**3000],
)
def test_a_value_agrees_with_an_equal_one_of_the_same_types(value):
    assert values_match(value, value, Comparison())


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        (1, True), (True, 1), (0, False), (1, 1.0), (1.0, 1), (0.0, False), ("1", 1), (b"a", "a"), ([1], (1,)),
        ((1,), [1]), ({1}, frozenset({1})), ({1}, [1]), ({1: 2}, {True: 2}), ({1: 2}, {1.0: 2}), ({1}, {True}),
        ({1}, {1.0}), ([[1]], [[True]]), ({"a": 1}, {"a": True}), ({(1, 2)}, {(1, 2.0)}), (None, False), ([], None),
        ([], {}), ("", None), (1 + 0j, 1), ([1, 2], [1]), ([1], [1, 2]), ({"a": 1}, {"b": 1}), ({1, 2}, {1, 3}),
        ({"a": 1}, {"a": 1, "b": 2}),
    ],
)  # fmt: skip
def test_another_type_or_value_never_agrees(expected, found):
    assert not values_match(expected, found, Comparison())


def test_floats_agree_within_the_larger_of_both_tolerances():
    comparison = Comparison(relative_tolerance=0.01, absolute_tolerance=0.5)
    assert values_match(100.0, 100.9, comparison)
    assert not values_match(100.0, 101.1, comparison)
    assert values_match(0.0, 0.5, comparison)
    assert not values_match(0.0, 0.51, comparison)
    assert values_match([1 + 1j], [1.4 + 0.6j], comparison)


@pytest.mark.parametrize(
    ("expected", "found"),
    [(1.5, INF), (INF, 1e308), (INF, -INF), (-INF, INF), (1.5, NAN), (NAN, NAN), (INF, NAN), (1e308, -1e308)],
)
def test_infinity_agrees_with_itself_alone_and_nan_with_nothing(expected, found):
    assert not values_match(expected, found, Comparison(relative_tolerance=0.5))
    assert not values_match([expected], [found], LOOSE)
    assert not values_match({"a": expected}, {"a": found}, LOOSE)


def test_nan_in_a_set_or_as_a_key_agrees_with_nothing_even_itself():
    assert not values_match({NAN}, {NAN}, Comparison())
    assert not values_match({NAN: 1}, {NAN: 1}, Comparison())


@pytest.mark.parametrize(
    ("expected", "found"), [([1, 2], (1, 2)), ((1, [2]), [1, (2,)]), (4, 4.0), (4.0, 4), ({"a": [1]}, {"a": (1,)})]
)
def test_loose_types_are_what_json_cannot_tell_apart(expected, found):
    assert values_match(expected, found, LOOSE)


@pytest.mark.parametrize(("expected", "found"), [(1, True), (True, 1.0), ([1], {1}), ("1", 1), (4, 4.1), (1, 10**400)])
def test_loose_types_are_loose_in_nothing_else(expected, found):
    assert not values_match(expected, found, LOOSE)


@pytest.mark.parametrize(
    ("expected", "found"),
    [("8", "8\r\n\r\n"), ("8\n", "8"), ("1 2\n3", "1 2  \n3\t\n"), ("", "\n\n"), ("a\rb", "a\nb"), (" 8", " 8 ")],
)
def test_line_ends_and_trailing_white_space_do_not_count(expected, found):
    assert outputs_match(expected, found)


@pytest.mark.parametrize(
    ("expected", "found"),
    [("8", " 8"), ("8", "8\0"), ("1 2", "1  2"), ("a\nb", "a\n\nb"), ("Yes", "yes"), ("8", "8.0"), ("8", "8\u00a0"),
     ("a\u2028b", "a\nb"), ("8", ""), ("", "8"), ("8", "\n8"), ("8", "08")],
)  # fmt: skip
def test_everything_else_that_is_printed_counts(expected, found):
    assert not outputs_match(expected, found)


def test_a_nan_is_found_wherever_it_is():
    assert all(holds_nan(value) for value in [NAN, [NAN], {"a": (1, NAN)}, {NAN: 1}, {NAN}, complex(0, NAN)])
    assert not holds_nan([1, "nan", {"a": INF}])


def test_plain_data_is_of_exact_built_in_types_and_bounded_depth():
    class Text(str):
        pass

    deep = 1
    for _ in range(50):
        deep = [deep]
    assert is_plain({"a": [(1, {2.0}), None]})
    assert not any(map(is_plain, [Text("a"), [Text("a")], {Text("a"): 1}, range(3), iter(()), object(), int, deep]))


def test_what_is_shown_to_a_person_is_short_whatever_the_value():
    deep = 1
    for _ in range(300):
        deep = [deep]
    for value in [10**100_000, [10**100_000] * 50, "x" * 10**6, list(range(10**5)), "\ud800", deep, {1: {2: {3: [4]}}}]:
        assert 0 < len(show_value(value).encode("utf-8")) <= 200


@pytest.mark.parametrize("tolerances", [(-1e-9, 0), (1.0, 0), (0, -1), (0, INF), (NAN, 0), (0, NAN)])
def test_a_tolerance_that_would_accept_everything_or_nothing_is_refused(tolerances):
    with pytest.raises(ValueError, match="tolerances"):
        Comparison(*tolerances)
