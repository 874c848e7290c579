"""Assertions over calls of a program are evaluated outside it; what is not evaluated here is refused."""

import ast
import math

import pytest

from posttrain.scorers.code_arithmetic import TooLargeError, check_size
from posttrain.scorers.code_expressions import NotRewritableError, build_expression


def build(text, **functions):
    return build_expression(ast.parse(text, mode="eval").body, functions or {"f": "f", "Stack": "Stack"})


def evaluate(text, *values):
    return build(text).evaluate(lambda number: values[number])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("f(1) == 4", 4), ("f(1) != 4", 5), ("f(1) == True", 1), ("f(1) is True", True), ("f(1) is None", None),
        ("f(1)", [0]), ("not f(1)", []), ("abs(f(1) - 2.0 / 3.0) < 1e-6", 0.6666666), ("f() == 3 * 5 * 7", 105),
        ("set(f([1])) == {1, 2}", [2, 1, 1]), ("sorted(f(1)) == sorted([2, 1])", [1, 2]), ("f(1) == (1, 2)", (1, 2)),
        ("tuple(f(1)) == (1, 2)", [1, 2]), ("math.isclose(f(1), 1.0, rel_tol=0.01)", 1.005), ("f(1)[0] == 'a'", "abc"),
        ("f(1)[-2:] == 'bc'", "abc"), ("len(f(1)) == 3", "abc"), ("isinstance(f(1), (int, float))", 1.5),
        ("type(f(1)) == int", 3), ("1 < f(1) <= 3", 3), ("f(1) in [1, 2]", 2), ("f(1) not in (1, 2)", 3),
        ("f(1) == 1j ** 2", -1), ("f(1) == 0 ** 0", 1), ("f(1) == {'a': -1}", {"a": -1}), ("f(1) == 'ab' * 2", "abab"),
        ("f(1) == float('inf')", float("inf")), ("round(f(1), 2) == 0.33", 0.3333), ("f(1) == 10 ** 9 + 7", 10**9 + 7),
        ("str(f(1)) == '4'", 4), ("max(f(1)) == 3", [1, 3]), ("f(1) == list(range(3))", [0, 1, 2]),
        ("f(1) == 1 or f(2) == 2", 1), ("sorted(f(1), reverse=True) == [2, 1]", [1, 2]),
        ("f(1) == math.pi", 3.141592653589793),
    ],
)  # fmt: skip
def test_an_assertion_that_holds_is_true(text, value):
    assert bool(evaluate(text, value, value)) is True


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("f(1) == 4", 5), ("f(1) == (1, 2)", [1, 2]), ("f(1) is True", 1), ("f(1) is None", 0), ("f(1)", 0),
        ("abs(f(1) - 0.5) < 1e-6", float("nan")), ("abs(f(1) - 0.5) < 1e-6", float("inf")),
        ("f(1) == f(1)", float("nan")),
        ("math.isclose(f(1), 1.0, rel_tol=0.01)", 1.5), ("f(1) == 1 and f(2) == 2", 1), ("type(f(1)) == int", True),
        ("set(f([1])) == {1, 2}", [1]), ("1 < f(1) <= 3", 4), ("f(1) == 'a'", b"a"),
    ],
)  # fmt: skip
def test_an_assertion_that_does_not_hold_is_false(text, value):
    assert bool(evaluate(text, value, value)) is False


TEXTS = [
    "f(1) == 4", "f(1) == [1, 2]", "f(1) == (1, 2)", "not f(1)", "f(1)", "abs(f(1) - 2) < 1.5", "len(f(1)) > 1",
    "set(f(1)) == {1, 2}", "sorted(f(1)) == [1, 2]", "f(1) is None", "f(1) is not True", "f(1) in (1, 'a', [])",
    "1 in f(1)", "1 <= f(1) < 3 or f(1) == 'a'", "f(1) and f(1) != 3", "-f(1) == -2", "f(1) * 2 == 'aa'",
    "isinstance(f(1), (list, str))", "type(f(1)) == type(1)", "sum(f(1)) == 3", "max(f(1)) == 2", "str(f(1)) == '2'",
    "math.isclose(f(1), 2)", "round(f(1)) == 2", "f(1)['a'] == 1", "list(f(1)) == ['a']", "dict(f(1)) == {'a': 1}",
    "2 ** 3 / f(1) == 4", "f(1)[0] == 1", "f(1) // 2 == 1", "5 % f(1) == 1",
]  # fmt: skip
VALUES = [0, 1, 2, 3, 4, True, False, None, 2.0, float("nan"), float("inf"), 2j, "", "a", "ab", b"a", [], [1, 2],
          (1, 2), [2, 1, 1], {1, 2}, frozenset({1}), {"a": 1}, {}, [[1], 2], ["a"], -2, 10**30]  # fmt: skip


def find_truth(compute):
    """Return whether a computed value is true, or the exception in its place."""
    try:
        return bool(compute())
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        return type(error)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_an_assertion_means_what_python_makes_of_it(text, value):
    meant = find_truth(lambda: eval(text, {"f": lambda x: value, "math": math}))
    assert find_truth(lambda: evaluate(text, value, value)) == meant


def test_calls_have_their_arguments_as_plain_data_and_by_name():
    (call,) = build("f(3 * 19, [1.5, -2], (None,), key={'a': 2}) == 1").calls
    assert (call.function, call.args, call.kwargs) == ("f", (57, [1.5, -2], (None,)), {"key": {"a": 2}})


@pytest.mark.parametrize(
    "argument", ["[Stack(1)]", "f(2)", "lambda x: x + 1", "[y for y in [1, 2]]", "int", "[0] * 10**7", "1 / 0"]
)
def test_arguments_that_are_no_plain_data_are_evaluated_beside_the_program(argument):
    (call,) = build(f"f({argument}) == 1").calls
    assert call.args == () and call.function == f"(lambda: f({ast.unparse(ast.parse(argument))}))"


def test_a_method_is_the_programs_where_its_owner_is_a_class_and_the_values_where_it_is_not():
    assert build("Stack(2).push(1) == [1]").calls[0].function == "(lambda: Stack(2).push(1))"
    with pytest.raises(NotRewritableError):
        build("f(2).startswith('a')")


def test_names_are_written_as_the_program_knows_them():
    calls = build("candidate([candidate(1)]) == 3", candidate="Solution().solve").calls
    assert [call.function for call in calls] == ["(lambda: Solution().solve([Solution().solve(1)]))"]
    assert build("candidate(2) == 3", candidate="Solution().solve").calls[0].args == (2,)


def test_a_function_of_the_program_may_bear_the_name_of_a_built_in():
    expression = build("sum(10, 15) == 6", sum="sum")
    assert expression.calls[0].args == (10, 15)
    assert expression.evaluate(lambda number: 6) is True


@pytest.mark.parametrize(
    "text",
    [
        "all(f(i) == i for i in [1, 2])", "(lambda: f(1))()", "f(x) == 1", "f(*[1]) == 1 if x else 2", "f(1).real == x",
        "helper(f(1)) == 2", "f(1) is f(2)", "eval('1') == f(1)", "f(1) == open", "__import__('os') == f(1)",
        "sorted(f(1), key=len) == [1]", "f(1).__class__ == int", "f'{f(1)}' == '1'", "f(1) == random.random()",
        "getattr(f(1), 'x') == 1", "f(**x) == 1", "math.factorial(f(1)) == 1", "(y := f(1)) == 2", "math == f(1)",
    ],
)  # fmt: skip
def test_anything_else_stays_code(text):
    with pytest.raises(NotRewritableError):
        build(text)


def test_what_a_failed_comparison_raises_is_left_to_the_caller():
    with pytest.raises(TypeError):
        evaluate("f(1) < 3", None)
    with pytest.raises(ZeroDivisionError):
        evaluate("1 / f(1) == 1", 0)


@pytest.mark.parametrize(
    ("text", "value"),
    [("2 ** f(1) == 1", 10**9), ("'a' * f(1) == 1", 10**9), ("1 << f(1) == 1", 10**9),
    ("len(list(range(f(1)))) == 1", 10**9),
     ("'%1000000000d' % f(1) == 1", 1), ("len(bytes(f(1))) == 1", 10**9), ("round(f(1), -10**9) == 1", 10)],
)  # fmt: skip
def test_work_that_a_small_value_can_make_large_is_refused(text, value):
    with pytest.raises(TooLargeError):
        evaluate(text, value)


def test_large_values_are_refused_before_anything_is_computed_with_them():
    for value in [[0] * 3_000, "x" * 200_000, {n: n for n in range(2_000)}, [[[0] * 1_000]] * 3, 1 << 70_000]:
        with pytest.raises(TooLargeError):
            check_size(value)
    check_size([list(range(100)), "x" * 1_000, {1: (2.0, None)}])


def test_the_text_of_answers_has_stand_ins_for_the_calls():
    assert build("abs(f(1) - f(f(2))) < 1").text_of_answers == "abs(answer__(0) - answer__(1)) < 1"
