"""Columns become tests, in every form that public data sets use; what cannot be used is refused with the row."""

import json

import pytest

from posttrain.core.errors import DataError
from posttrain.scorers.code_comparison import Comparison
from posttrain.scorers.code_tasks import read_task
from posttrain.scorers.code_tests import OutputTest, ValueTest
from tests.scorers.code_items import build_item, texts_of


def read(columns, prompt="Write it."):
    return read_task(build_item(columns, "", prompt=prompt)[0], Comparison())


@pytest.mark.parametrize(
    "tests",
    [
        [[[1, [2]], 3]],
        [([1, [2]], 3)],
        [{"args": [1, [2]], "expected": 3}],
        [{"input": [1, [2]], "output": 3, "kwargs": None}],
        {"inputs": [[1, [2]]], "outputs": [3]},
        json.dumps([[[1, [2]], 3]]),
        "[([1, [2]], 3)]",
    ],
)
def test_a_functions_tests_are_pairs_however_they_are_written(tests):
    (test,) = read({"entry": "f", "tests": tests}).tests
    assert isinstance(test, ValueTest)
    assert (test.call.function, test.call.args, test.expected) == ("f", (1, [2]), 3)


def test_named_arguments_are_given_beside_or_instead_of_others():
    tests = [{"args": [1], "kwargs": {"b": 2}, "expected": 3}, {"kwargs": {"a": 1}, "expected": 2}]
    found = [(t.call.args, t.call.kwargs) for t in read({"entry_point": "f", "tests": tests}).tests]
    assert found == [((1,), {"b": 2}), ((), {"a": 1})]


def test_a_python_literal_tells_tuples_and_sets():
    (test,) = read({"entry": "f", "tests": "[[[(1, 2)], {3}]]"}).tests
    assert (test.call.args, test.expected) == (((1, 2),), {3})


@pytest.mark.parametrize(
    "tests", [[["4\n", "8"]], [{"input": "4\n", "output": "8"}], {"inputs": ["4\n"], "outputs": ["8"]}]
)
def test_without_an_entry_tests_are_standard_input_and_output(tests):
    (test,) = read({"tests": tests, "entry": None}).tests
    assert test == OutputTest("4\n", "8")


def test_assertions_come_under_the_names_of_mbpp_too():
    assert texts_of(read({"asserts": ["assert f(1) == 2"], "setup": "import re"}).tests) == ["AssertTest"]
    columns = {
        "test_list": ["assert f(1) == re.I"],
        "test_setup_code": "x = 1",
        "test_imports": ["import re", "import os"],
    }
    (test,) = read(columns).tests
    assert test.setup.splitlines() == ["x = 1", "import re", "import os"]


def test_the_code_of_a_humaneval_prompt_is_found_in_a_column_or_in_the_message():
    prompt = 'def f(x):\n    """Doc."""\n'
    columns = {"test": "def check(candidate):\n    assert candidate(1) == 2", "entry_point": "f"}
    for task in (read({**columns, "prompt": prompt}), read({**columns, "code_prompt": prompt}), read(columns, prompt)):
        assert task.prompt is not None and task.prompt.text == prompt
    assert read(columns).prompt is None


@pytest.mark.parametrize(
    "columns",
    [
        {}, {"tests": []}, {"tests": None}, {"tests": "nothing"}, {"tests": 3}, {"tests": [[1]]}, {"tests": [["4", 8]]},
        {"tests": [[4, "8"]]}, {"tests": [["1", "2", "3"]]}, {"tests": {"inputs": ["1"], "outputs": []}}, {"tests": {}},
        {"tests": {"inputs": [], "outputs": []}}, {"tests": [{"input": "1"}]},
        {"tests": [["1", "2"]], "asserts": ["assert f(1)"]},
        {"tests": [["4", "8"]], "entry": "f"}, {"tests": [[[1], 2]]}, {"tests": [[[1], 2]], "entry": "f(2"},
        {"tests": [[[1], 2]], "entry": ""}, {"tests": [[[1], 2]], "entry": 3}, {"tests": [[3, 2]], "entry": "f"},
        {"tests": [[[1], float("nan")]], "entry": "f"}, {"tests": "[[[1], NaN]]", "entry": "f"},
        {"tests": [[[object()], 2]], "entry": "f"}, {"tests": [[[1], range(3)]], "entry": "f"},
        {"tests": [{"args": [], "kwargs": [1], "expected": 1}], "entry": "f"}, {"asserts": []}, {"asserts": [""]},
        {"asserts": [3]},
        {"asserts": ["assert f(1) =="]}, {"asserts": ["assert 1 == 1"]}, {"test_list": "[]"},
        {"setup": 3, "asserts": ["assert f(1)"]},
        {"setup": "def", "asserts": ["assert f(1)"]}, {"test": "def check(candidate): pass", "entry_point": "f"},
        {"test": "def check(candidate):\n    assert candidate(1)"}, {"test": 3, "entry_point": "f"},
        {"test": "x = 1", "entry_point": "f"},
    ],
)  # fmt: skip
def test_columns_that_hold_no_usable_tests_are_refused_with_the_row_and_the_cure(columns):
    with pytest.raises(DataError) as caught:
        read(columns)
    assert caught.value.place == "row-1"
    assert "columns: {tests:" in caught.value.cure
