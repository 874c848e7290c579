"""What a completion is worth, whose fault a failure is, and in which order tests run."""

import pytest

from posttrain.core.errors import DataError
from posttrain.sandbox.programs import ProgramResult
from posttrain.scorers.code import CodeScorer
from posttrain.scorers.code_comparison import Comparison
from tests.scorers.code_items import build_item, score
from tests.scorers.program_runner import UnsafeRunner

DOUBLE = "def f(x):\n    return 2 * x\n"
TESTS = {"entry": "f", "tests": [[[n], 2 * n] for n in range(12)]}


class TableRunner:
    """Answers by a function of a call's first argument, and notes what it was asked."""

    def __init__(self, answer):
        self.answer = answer
        self.asked = []

    def run(self, programs):
        self.asked.append([program.args[0] if program.entry else program.stdin for program in programs])
        return [self.answer(argument) for argument in self.asked[-1]]


def right(argument):
    return ProgramResult("ok", value=2 * argument)


def test_a_program_that_passes_every_test_is_worth_1():
    outcome = score(TableRunner(right), TESTS, DOUBLE)
    assert (outcome.status, outcome.value, outcome.fault) == ("scored", 1.0, None)
    assert outcome.parts == {"num_tests": 12, "num_run": 12, "num_passed": 12, "fraction_passed": 1}


def test_a_real_program_is_run_and_compared_outside():
    outcome = score(UnsafeRunner(), {"entry": "f", "tests": [[[3], 6]]}, "Sure:\n```python\n" + DOUBLE + "```\n")
    assert outcome.value == 1.0
    wrong = score(UnsafeRunner(), {"entry": "f", "tests": [[[3], 7]]}, DOUBLE)
    assert wrong.value == 0.0
    assert wrong.why == "failed test 1 of 1: f(3) gave 6 (int), expected 7 (int)"


def test_scoring_stops_at_the_first_batch_with_a_failure():
    runner = TableRunner(lambda argument: ProgramResult("ok", value=None))
    outcome = score(runner, TESTS, DOUBLE)
    assert outcome.value == 0.0
    assert [len(asked) for asked in runner.asked] == [1]
    assert (outcome.parts["num_run"], outcome.parts["num_tests"]) == (1, 12)


def test_a_program_that_fails_one_test_is_worth_0_and_its_fraction_only_where_that_is_asked_for():
    def answer(argument):
        return right(argument) if argument != 5 else ProgramResult("raised", why="ValueError: 5")

    whole = score(TableRunner(answer), TESTS, DOUBLE)
    assert (whole.status, whole.value) == ("scored", 0.0)
    assert whole.why == "failed test 6 of 12: f(5) raised: ValueError: 5"
    fraction = score(TableRunner(answer), TESTS, DOUBLE, scoring="fraction")
    assert fraction.value == pytest.approx(11 / 12)
    assert (fraction.parts["num_run"], fraction.parts["num_passed"]) == (12, 11)


def test_tests_run_in_an_order_drawn_from_the_problem_and_the_completions_seed():
    orders = []
    for seed in (1, 1, 2):
        runner = TableRunner(right)
        score(runner, TESTS, DOUBLE, seed=seed)
        orders.append([argument for asked in runner.asked for argument in asked])
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2]) == list(range(12))
    assert orders[0] != sorted(orders[0])


@pytest.mark.parametrize("status", ["raised", "memory", "crash", "output", "bad_record"])
def test_a_failure_of_the_programs_own_is_a_score_of_0(status):
    outcome = score(TableRunner(lambda argument: ProgramResult(status)), TESTS, DOUBLE)
    assert (outcome.status, outcome.value, outcome.fault) == ("scored", 0.0, None)


def test_a_program_that_runs_out_of_time_is_timed_out_and_the_policys_failure():
    outcome = score(TableRunner(lambda argument: ProgramResult("timeout")), TESTS, DOUBLE)
    assert (outcome.status, outcome.value, outcome.fault) == ("timed_out", 0.0, "policy")


def test_a_failed_sandbox_is_the_harness_fault_and_never_a_score():
    def answer(argument):
        return ProgramResult("sandbox_error", why="gone") if argument == 5 else right(argument)

    for scoring in ("all", "fraction"):
        outcome = score(TableRunner(answer), TESTS, DOUBLE, scoring=scoring)
        assert (outcome.status, outcome.fault, outcome.is_counted) == ("errored", "harness", False)


def test_a_failed_sandbox_does_not_excuse_a_program_that_is_wrong_anyway():
    def answer(argument):
        return ProgramResult("sandbox_error") if argument % 2 else ProgramResult("ok", value=None)

    runner = TableRunner(answer)
    columns = {"entry": "f", "tests": [[[n], 2 * n] for n in range(2)]}
    outcomes = [score(runner, columns, DOUBLE, seed=seed) for seed in range(20)]
    assert {(outcome.status, outcome.fault) for outcome in outcomes} == {("scored", None), ("errored", "harness")}
    assert all(outcome.value == 0.0 for outcome in outcomes)


def test_a_text_without_a_program_is_unparsed_and_nothing_is_run():
    runner = TableRunner(right)
    outcome = score(runner, TESTS, "I would rather not write that.")
    assert (outcome.status, outcome.fault, runner.asked) == ("unparsed", "policy", [])


@pytest.mark.parametrize(("reason", "fault"), [("length", "policy"), ("filtered", "policy"), ("cancelled", "harness")])
def test_a_completion_that_did_not_end_by_itself_is_not_run(reason, fault):
    runner = TableRunner(right)
    outcome = score(runner, TESTS, DOUBLE, finish_reason=reason)
    assert (outcome.value, outcome.fault, runner.asked) == (0.0, fault, [])


def test_outcomes_keep_the_order_of_the_items_and_programs_of_a_round_run_together():
    runner = TableRunner(right)
    items = [build_item(TESTS, text) for text in (DOUBLE, "no program here", DOUBLE)]
    outcomes = CodeScorer(runner=runner).score(items)
    assert [outcome.value for outcome in outcomes] == [1.0, 0.0, 1.0]
    assert [len(asked) for asked in runner.asked] == [2, 14, 8]


def test_no_more_programs_run_at_a_time_than_their_results_may_be_held():
    runner = TableRunner(right)
    items = [build_item(TESTS, DOUBLE) for _ in range(300)]
    assert {outcome.value for outcome in CodeScorer(runner=runner).score(items)} == {1.0}
    assert max(len(asked) for asked in runner.asked) <= 512
    assert sum(len(asked) for asked in runner.asked) == 300 * 12


def test_no_items_need_no_runner():
    assert CodeScorer(runner=TableRunner(right)).score([]) == []


def test_the_judges_own_inputs_and_expected_values_are_never_changed():
    tests = [[[[1, 2]], [1, 2]]]

    class Changing(TableRunner):
        def run(self, programs):
            return [ProgramResult("ok", value=[1, 2]) for _ in programs]

    assert score(Changing(right), {"entry": "f", "tests": tests}, DOUBLE).value == 1.0
    assert tests == [[[[1, 2]], [1, 2]]]


def test_loose_types_are_a_setting():
    runner = TableRunner(lambda argument: ProgramResult("ok", value=(argument,)))
    columns = {"entry": "f", "tests": [[[1], [1]]]}
    assert score(runner, columns, DOUBLE).value == 0.0
    assert score(runner, columns, DOUBLE, comparison=Comparison(types="loose")).value == 1.0


def test_a_method_is_an_entry_too():
    text = "class Solution:\n    def twice(self, x):\n        return 2 * x\n"
    text += "    @staticmethod\n    def three():\n        return 3\n"
    assert score(UnsafeRunner(), {"entry": "Solution().twice", "tests": [[[3], 6]]}, text).value == 1.0
    assert score(UnsafeRunner(), {"entry": "Solution.three", "tests": [[[], 3]]}, text).value == 1.0
    check = (
        "def check(candidate):\n    assert candidate(x=3) == 6\n    for y in [1]:\n        assert candidate(y) == 2\n"
    )
    assert score(UnsafeRunner(), {"entry_point": "Solution().twice", "test": check}, text).value == 1.0


def test_an_assertion_over_a_value_too_large_to_compute_with_here_runs_in_a_sandbox():
    columns = {"asserts": ["assert len(set(f(5000))) == 5000", "assert f(3) == [0, 1, 2]"]}
    runner = UnsafeRunner()
    assert score(runner, columns, "def f(n):\n    return list(range(n))").value == 1.0
    assert any(program.entry == "run_tests" for program in runner.programs)
    assert score(runner, columns, "def f(n):\n    return list(range(3)) + [1] * (n - 3)").value == 0.0


def test_an_assertion_may_build_the_programs_own_objects_as_arguments():
    text = "class Pair:\n    def __init__(self, a, b):\n        self.a, self.b = a, b\n"
    text += "def f(pairs):\n    return sum(p.a * p.b for p in pairs)"
    assert score(UnsafeRunner(), {"asserts": ["assert f([Pair(1, 2), Pair(3, 4)]) == 14"]}, text).value == 1.0
    assert score(UnsafeRunner(), {"asserts": ["assert Pair(1, 2).a == 1"]}, text).value == 1.0


def test_a_method_that_the_programs_own_object_brings_along_decides_nothing():
    text = "class Text:\n    def startswith(self, *a):\n        return True\n    upper = startswith\n"
    text += "def f(x):\n    return Text()"
    for assertion in ("assert f(1).startswith('a')", "assert f(1).upper()", "assert f(1).upper().startswith('a')"):
        assert score(UnsafeRunner(), {"asserts": [assertion]}, text).value == 0.0
    assert (
        score(UnsafeRunner(), {"asserts": ["assert f(1).startswith('a')"]}, "def f(x):\n    return 'abc'").value == 1.0
    )


def test_a_humaneval_completion_continues_its_prompt():
    prompt = 'def f(x):\n    """Doubles."""\n'
    columns = {"entry_point": "f", "test": "def check(candidate):\n    assert candidate(2) == 4\n"}
    for text in ("    return 2 * x\n", DOUBLE, f"```python\n{DOUBLE}```"):
        assert score(UnsafeRunner(), columns, text, prompt=prompt).value == 1.0
    assert score(UnsafeRunner(), columns, "    return x\n", prompt=prompt).value == 0.0


def test_tests_that_fail_by_themselves_are_refused_with_the_row():
    columns = {"asserts": ["x = 1\nassert x == 2 and f(1)"]}
    with pytest.raises(DataError) as caught:
        score(UnsafeRunner(), columns, DOUBLE)
    assert caught.value.place == "row-1"
