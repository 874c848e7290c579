"""Tests that stay code run where the program is absent, with answers that were recorded elsewhere."""

import pytest

from posttrain.sandbox.programs import ProgramResult
from posttrain.scorers.code_driver import run_tests
from posttrain.scorers.code_expressions import Call
from posttrain.scorers.code_judging import BrokenTestError, run_judges
from posttrain.scorers.code_scripts import ScriptTest, is_answer
from tests.scorers.program_runner import UnsafeRunner

MARKED = "try:\n    assert f({n}) == {n}\nexcept Exception:\n    settle_assertion__()\n"
DOUBLE = "def f(x):\n    return 2 * x\n"


def drive(tests, answers=(), *, is_guessing=True, max_calls=20, **job):
    given = {"setup": "", "functions": {"f": "f"}, "check": None, "seed": 0, **job}
    given |= {"tests": tests, "answers": list(answers), "is_guessing": is_guessing, "max_calls": max_calls}
    return run_tests(given)


def judge(tests, program, runner=None, **fields):
    script = ScriptTest(fields.pop("setup", ""), tests, fields.pop("functions", {"f": "f"}), **fields)
    return run_judges([script.judge(program)], runner or UnsafeRunner())[0]


def answer(argument, value):
    return ["f", [argument], {}, ["returned", value]]


def test_all_calls_that_do_not_depend_on_answers_are_asked_for_at_once():
    state = drive("".join(MARKED.format(n=n) for n in range(5)))
    assert state["state"] == "asked"
    assert state["calls"] == [["f", [n], {}] for n in range(5)]


def test_without_guessing_only_the_first_unknown_call_is_asked_for():
    state = drive("f(0)\nf(1)", is_guessing=False)
    assert (state["state"], state["calls"]) == ("asked", [["f", [0], {}]])


def test_an_assertion_stands_until_a_guess_was_given_and_not_after():
    failed = drive(MARKED.format(n=0) + MARKED.format(n=1), [answer(0, 7)])
    assert failed["state"] == "failed" and "assert f(0) == 0" in failed["why"]
    assert drive(MARKED.format(n=0) + MARKED.format(n=1), [answer(1, 7)])["state"] == "asked"
    assert drive(MARKED.format(n=0), [answer(0, 0)]) == {"state": "passed", "calls": [], "num_calls": 1}


def test_calls_are_told_apart_by_type_and_value_and_each_answer_is_used_once():
    known = [answer(1, "int"), answer(True, "bool"), answer(1.0, "float"), answer(1, "second")]
    code = "assert [f(1.0), f(1), f(True), f(1)] == ['float', 'int', 'bool', 'second']"
    assert drive(code, known)["state"] == "passed"
    assert drive(code + "\nf(1)", known)["calls"] == [["f", [1], {}]]


def test_the_order_of_sets_and_dicts_makes_no_other_call():
    known = [["f", [{"b": 1, "a": {2, 3}}], {"x": 1, "y": 2}, ["returned", 5]]]
    assert drive("assert f({'a': {3, 2}, 'b': 1}, y=2, x=1) == 5", known)["state"] == "passed"


def test_arguments_are_recorded_as_they_were_when_the_call_was_made():
    assert drive("x = [1]\nf(x)\nx.append(2)\nf(x)")["calls"] == [["f", [[1]], {}], ["f", [[1, 2]], {}]]


def test_an_exception_of_the_program_is_raised_as_its_built_in_class():
    code = "try:\n    f(1)\nexcept ValueError as error:\n    assert str(error) == 'bad'\nelse:\n    assert False"
    assert drive(code, [["f", [1], {}, ["raised", "ValueError", "bad"]]])["state"] == "passed"
    assert drive(code, [["f", [1], {}, ["raised", "TypeError", "bad"]]])["state"] == "failed"
    for name in ("UnicodeDecodeError", "KeyboardInterrupt", "print", "__import__", "NoSuchName"):
        assert drive("f(1)", [["f", [1], {}, ["raised", name, "bad"]]])["state"] == "failed"


@pytest.mark.parametrize(
    "code", ["f(object())", "f(len)", "f(x for x in [1])", "import collections\nf(collections.OrderedDict())"]
)
def test_what_is_no_plain_data_is_never_sent(code):
    assert drive(code)["state"] == "unsendable"


def test_too_many_calls_end_the_run():
    assert drive("for n in range(30): f(n)", [answer(n, 0) for n in range(30)])["state"] == "too_many"
    assert len(drive("while True: f(1)")["calls"]) == 20


def test_a_guess_takes_part_in_everything_but_not_for_ever():
    code = "g = f(1)\nx = abs(-g + 1) ** 2 / g[0].a(3) - len(g) + float(g) + (g in g) + sum(g)\n"
    code += "if g < 3 and 3 < g: f(str(g) + f'{g}')"
    assert drive(code)["calls"] == [["f", [1], {}], ["f", [""], {}]]
    assert drive("g = f(1)\nwhile g: pass")["state"] == "asked"


def test_the_tests_own_handlers_do_not_hide_that_an_answer_is_missing():
    code = "try:\n    f(1)\nexcept BaseException:\n    pass\n"
    assert drive(code, is_guessing=False)["state"] == "asked"
    assert drive(code, [["f", [1], {}, ["ended"]]])["state"] == "ended"


@pytest.mark.parametrize("is_right", [True, False])
def test_a_program_is_judged_by_the_tests_own_code(is_right):
    code = "import random\nfor _ in range(12):\n    x = random.randint(0, 10**9)\n    assert f(x) == x + x"
    runner = UnsafeRunner()
    verdict = judge(code, DOUBLE if is_right else "def f(x):\n    return x", runner)
    assert verdict.is_passed is is_right
    assert runner.rounds == ([1, 8, 1, 4, 1] if is_right else [1, 8, 1])
    assert is_right or "assert f(x) == x + x" in verdict.why


def test_calls_that_depend_on_answers_are_made_one_after_the_other():
    assert judge("x = 1\nfor _ in range(4):\n    x = f(x)\nassert x == 16", DOUBLE).is_passed


def test_helpers_of_the_setup_are_the_tests_own_and_not_the_programs():
    code = "def check(candidate):\n    assert poly(candidate(3)) == 9"
    program = "def poly(x):\n    return 9\n\ndef f(x):\n    return 0\n"
    setup = "def poly(x):\n    return x * x\n\ndef f(x):\n    pass\n"
    script = {"setup": setup, "functions": {"candidate": "f", "f": "f"}, "check": "candidate"}
    assert not judge(code, program, **script).is_passed
    assert judge(code, "def f(x):\n    return x", **script).is_passed


@pytest.mark.parametrize(
    ("program", "is_passed"),
    [
        ("class Bad(ValueError):\n    pass\ndef f(x):\n    raise Bad('no')", True),
        ("def f(x):\n    raise KeyError(x)", False),
        ("def f(x):\n    return x", False),
        ("def g(x):\n    return x", False),
        ("def f(x):\n    raise SystemExit", False),
        ("import os\ndef f(x):\n    os._exit(0)", False),
        ("class E(ValueError):\n    def __str__(self):\n        raise E\ndef f(x):\n    raise E", True),
    ],
)
def test_a_test_may_expect_an_exception(program, is_passed):
    code = "try:\n    f(-1)\nexcept ValueError:\n    pass\nelse:\n    assert False, 'nothing raised'"
    assert judge(code, program).is_passed is is_passed


@pytest.mark.parametrize("name", ["function", "args", "kwargs", "error", "names", "answer__", "run_tests"])
def test_the_programs_function_may_bear_any_name(name):
    program = DOUBLE.replace("f(", f"{name}(")
    assert judge(f"for n in range(3):\n    assert {name}(n) == 2 * n", program, functions={name: name}).is_passed


def test_a_missing_function_is_no_exception_of_the_program():
    assert not judge("try:\n    f(-1)\nexcept Exception:\n    pass", "def g(x):\n    return x").is_passed


@pytest.mark.parametrize(
    "code",
    [
        "assert 1 == 2\nf(1)",
        "import no_such_module\nf(1)",
        "if False:\n    f(1)",
        "f(len)",
    ],
)
def test_tests_that_fail_without_the_program_are_the_problems_fault(code):
    with pytest.raises(BrokenTestError):
        judge(code, DOUBLE)


@pytest.mark.parametrize("code", ["f(1)\nf(len)", "for n in range(30): f(n)"])
def test_tests_that_ask_for_more_than_is_run_of_any_program_are_the_problems_fault(code, monkeypatch):
    monkeypatch.setattr("posttrain.scorers.code_scripts.MAX_CALLS", 10)
    with pytest.raises(BrokenTestError):
        judge(code, DOUBLE)


@pytest.mark.parametrize(
    "code", ["while f(1): pass", "for n in range(f(10)): f(n)", "x = 1\nwhile x < 10**9: x = f(x)"]
)
def test_a_program_whose_answers_make_the_tests_ask_for_ever_fails(code, monkeypatch):
    monkeypatch.setattr("posttrain.scorers.code_scripts.MAX_CALLS", 10)
    verdict = judge(code, DOUBLE)
    assert (verdict.is_passed, verdict.status) == (False, "ok")


def test_a_loop_that_ends_by_an_answer_is_judged_to_its_end():
    program = "def f(x):\n    return x < 5"
    assert judge("x = 0\nwhile f(x): x += 1\nassert x == 5", program).is_passed


def test_known_answers_are_not_asked_for_again():
    runner = UnsafeRunner()
    script = ScriptTest("", "assert answer__(0) == 4", {"answer__": "answer__"})
    (verdict,) = run_judges([script.judge(DOUBLE, [(Call("answer__", (0,), {}), ["returned", 4])])], runner)
    assert verdict.is_passed and runner.rounds == [1]


@pytest.mark.parametrize("value", ["x" * (1 << 20), [0.5] * (1 << 14)])
def test_answers_too_large_for_the_tests_are_the_programs_failure(value):
    class Generous(UnsafeRunner):
        def run(self, programs):
            is_answer = programs[0].entry != "run_tests"
            self.rounds.append(len(programs))
            return (
                [ProgramResult("ok", value=["returned", value])] * len(programs) if is_answer else super().run(programs)
            )

    runner = Generous()
    verdict = judge("for n in range(500):\n    assert f(n) is not None", DOUBLE, runner)
    assert (verdict.is_passed, verdict.status) == (False, "output")
    assert sum(runner.rounds) < 200


def test_an_answer_has_one_of_two_forms():
    assert is_answer(["returned", None]) and is_answer(["raised", "ValueError", "x"])
    assert not any(
        map(
            is_answer, [None, [], ["returned"], ("returned", 1), ["ended"], ["raised", "x"], ["raised", 1, 2], "raised"]
        )
    )
