"""Test code is taken apart: what can be judged outside a sandbox, what stays code, and which functions are meant."""

import pytest

from posttrain.scorers.code_asserts import TestCodeError, build_assert_tests, build_check_tests
from posttrain.scorers.code_programs import read_prompt_code
from posttrain.scorers.code_scripts import ScriptTest
from tests.scorers.code_items import texts_of

CHECK = """
METADATA = {'author': 'x'}

def check(candidate):
    '''Checks.'''
    assert candidate(1) == 2, "message " + str(candidate(1))
    assert True
    print
    assert abs(candidate(2) - 4) < 1e-6
"""


def build(*asserts, setup="", **functions):
    return build_assert_tests(setup, asserts, functions, 0)


def test_an_assertion_with_constant_arguments_needs_no_sandbox_of_its_own():
    assert texts_of(build("assert f(1) == 2", "assert not f([2])", "f(1)")) == [
        "AssertTest",
        "AssertTest",
        "ScriptTest",
    ]


def test_the_programs_functions_are_the_names_that_nothing_defines():
    (test,) = build("for x in range(3):\n    assert g(sorted(f(x)), key=h) == norm(x)", setup="def norm(x): return x")
    assert isinstance(test, ScriptTest)
    assert set(test.functions) == {"f", "g", "h"}


def test_a_modules_name_is_no_function_of_the_program_and_needs_no_import():
    tests = build("assert f(1) == sys.maxsize", "assert math.isclose(f(2), 1)")
    assert texts_of(tests) == ["ScriptTest", "AssertTest"]
    assert set(tests[0].functions) == {"f"}
    assert "import sys" in tests[0].setup


def test_a_function_with_a_built_ins_name_is_found_by_where_it_stands():
    tests = build("assert sum(10, 15) == 6", "assert sum(1, 2) == 1")
    assert [test.expression.calls[0].args for test in tests] == [(10, 15), (1, 2)]


def test_a_name_that_the_setup_gives_another_meaning_is_not_evaluated_here():
    assert texts_of(build("assert abs(f(1)) == 2", setup="def abs(x): return 2")) == ["ScriptTest"]
    assert texts_of(build("assert math.isclose(f(1), 2)", setup="import math")) == ["AssertTest"]
    assert texts_of(build("assert math.isclose(f(1), 2)", setup="import cmath as math")) == ["ScriptTest"]


@pytest.mark.parametrize(
    "asserts", [["assert f(1) =="], ["assert 1 == 1"], ["assert f(1) == 1", "assert True"], ["x = 1"]]
)
def test_a_test_that_is_no_python_or_uses_no_program_is_refused(asserts):
    with pytest.raises(TestCodeError):
        build(*asserts)


def test_the_assertions_of_a_check_are_tests_and_what_uses_no_candidate_is_none():
    tests = build_check_tests(CHECK, "f", None, 0)
    assert texts_of(tests) == ["AssertTest", "AssertTest"]
    assert tests[0].expression.calls[0].function == "f"


def test_what_is_left_of_a_check_stays_one_test():
    code = CHECK + "    for x in range(3):\n        assert candidate(x) == 2 * x\n"
    tests = build_check_tests(code + "\ncheck(f)\n", "f", None, 0)
    assert texts_of(tests) == ["AssertTest", "AssertTest", "ScriptTest"]
    assert "candidate(1)" not in tests[2].tests and "range(3)" in tests[2].tests
    assert "check(f)" not in tests[2].tests


@pytest.mark.parametrize(
    "line", ["    abs = None\n", "    if candidate(1):\n        return\n", "    str, abs = 1, 2\n",
    "    from x import *\n    def abs(x): pass\n"]
)  # fmt: skip
def test_a_check_that_changes_what_its_assertions_mean_stays_code(line):
    tests = build_check_tests(CHECK.replace("    assert True\n", line), "f", None, 0)
    assert texts_of(tests).count("ScriptTest") == 1
    assert not any(
        "abs" in getattr(test, "expression", test).text for test in tests if not isinstance(test, ScriptTest)
    )


def test_local_names_of_other_functions_change_nothing():
    prompt = read_prompt_code("def poly(abs, x):\n    str = 1\n    return str\n\n\ndef f(abs):\n    '''Doc.'''\n", "f")
    assert texts_of(build_check_tests(CHECK, "f", prompt, 0)) == ["AssertTest", "AssertTest"]


def test_the_argument_of_a_check_may_bear_the_functions_name():
    tests = build_check_tests("def check(f):\n    assert f(1) == 2\n\ncheck(f)", "f", None, 0)
    assert [test.expression.calls[0].function for test in tests] == ["f"]


@pytest.mark.parametrize(
    "code", ["def check(candidate):\n    pass", "def check(candidate):\n    assert True", "x = 1",
    "def check():\n    assert f(1)",
             "def check(candidate", "assert f(1) == 1"]
)  # fmt: skip
def test_a_check_that_never_calls_the_program_is_refused(code):
    with pytest.raises(TestCodeError):
        build_check_tests(code, "f", None, 0)
