"""Code: a program is right where it passes hidden tests, each judged outside the process that ran it.

The judge holds the expected values and runs nothing that a policy wrote. Every test is a fresh process
(`ProgramRunner`), which is given the inputs and gives back plain data or printed text; what was expected is
compared here. So an early exit, a class with an `__eq__` of its own, the caller's frames, a patched built-in or
an answer by the order of calls win nothing. Tests run in an order drawn from the problem and the completion's
seed. How a program is found in a completion: `code_programs`.

Columns, one form a problem (None counts as absent):

* Functions: `entry` (or `entry_point`), such as `f`, `Solution.f` or `Solution().f`, and `tests`:
  `[[args, expected], ...]`, where args is the list of arguments.
* Programs: no `entry`, and `tests`: `[[standard input, standard output], ...]`, texts.
* Assertions: `asserts`, texts such as `assert f(2) == 4`; `setup`, code that they need; `entry` where it cannot be
  told which function is the program's.
* MBPP: `test_list`, with `test_setup_code` and `test_imports`: assertions under its own names.
* HumanEval: `test`, code that defines `check(candidate)`; `entry_point`; the code that completions continue, if any,
  in `code_prompt`, `prompt` or the last message.

A test in `tests` may also be `{args, kwargs, expected}` or `{input, output}`, and `tests` itself `{inputs, outputs}`
(two lists). A list may be written as text: JSON, or a Python literal, which can tell tuples, sets and whole keys.

Values of `function` tests agree as `code_comparison` says: exact types, floats within a tolerance. Assertions mean
what they say in Python, on plain data: those over calls with constant arguments are evaluated here
(`code_expressions`), the others run in a sandbox of their own, without the program (`code_scripts`). Printed text
agrees after line ends and trailing white space are normalised.

What it can not judge: what a program keeps between calls or changes in place; arguments and values that are no
plain data (generators, objects, arrays); several right outputs of one input; speed beyond the runner's limits;
style. Tests that are few or weak accept wrong programs, here as anywhere.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal

from posttrain.core.errors import DataError
from posttrain.core.hashing import hash_text
from posttrain.core.records import Completion, Outcome, Problem
from posttrain.scorers.code_comparison import Comparison
from posttrain.scorers.code_judging import (
    BrokenTestError,
    CodeTest,
    Judging,
    ProgramRunner,
    Verdict,
    judge_together,
    run_judges,
)
from posttrain.scorers.code_programs import extract_program
from posttrain.scorers.code_tasks import CodeTask, read_task
from posttrain.scorers.endings import judge_ending

_FIRST_TESTS = (1, 7)


class CodeScorer:
    """Scores programs by hidden tests (`core.protocols.Scorer`).

    `parts` are `num_tests`, `num_run`, `num_passed` and `fraction_passed` (of all tests; where scoring stopped at
    a failure, those that were not run count as not passed). A program that fails is `scored` 0 with the first
    failing test in `why`, or `timed_out` where that test ran out of time; a sandbox that failed is the harness's
    fault unless another test has failed already.

    Args:
        runner: Runs the programs; it owns their limits.
        scoring: `all`: 1 where every test passes, stopping early where one fails; `fraction`: the fraction passed.
        comparison: How near a value must come to the expected one.
    """

    name = "code"

    def __init__(
        self,
        *,
        runner: ProgramRunner,
        scoring: Literal["all", "fraction"] = "all",
        comparison: Comparison | None = None,
    ) -> None:
        self.runner = runner
        self._scoring = scoring
        self._comparison = comparison or Comparison()

    def score(self, items: Sequence[tuple[Problem, Completion]]) -> list[Outcome]:
        """Return one outcome for each item, in order.

        Raises:
            DataError: A problem has no tests, or tests that cannot be used.
            SandboxError: The runner cannot run anything.
        """
        tasks: dict[int, CodeTask] = {}
        for problem, _ in items:
            if id(problem) not in tasks:
                tasks[id(problem)] = read_task(problem, self._comparison)
        judges = [self._judge(problem, completion, tasks[id(problem)]) for problem, completion in items]
        return run_judges(judges, self.runner)

    def _judge(self, problem: Problem, completion: Completion, task: CodeTask) -> Judging[Outcome]:
        failure = judge_ending(completion)
        if failure is not None:
            return failure
        source = extract_program(completion.text, task.prompt)
        if source is None:
            return Outcome("unparsed", 0.0, why="no program found in the completion", fault="policy")
        order = list(range(len(task.tests)))
        seed = int(hash_text("order", problem.problem_id, str(completion.seed)), 16)
        random.Random(seed).shuffle(order)
        try:
            verdicts = yield from self._run_tests(task.tests, order, source)
        except BrokenTestError as error:
            raise DataError(
                str(error),
                expected="tests that fail by the program alone",
                cure="correct the tests, leave the row out, or choose another scorer",
                place=problem.problem_id,
            ) from error
        return self._conclude(verdicts, len(task.tests))

    def _run_tests(self, tests: Sequence[CodeTest], order: Sequence[int], source: str) -> Judging[dict[int, Verdict]]:
        """Run tests in order, all of them or up to the first batch with a failure; return verdicts by test."""
        verdicts: dict[int, Verdict] = {}
        sizes = iter(_FIRST_TESTS if self._scoring == "all" else ())
        while len(verdicts) < len(order):
            batch = order[len(verdicts) :][: next(sizes, len(order))]
            found = yield from judge_together([tests[number].judge(source) for number in batch])
            verdicts.update(zip(batch, found, strict=True))
            if self._scoring == "all" and not all(verdict.is_passed for verdict in found):
                break
        return verdicts

    def _conclude(self, verdicts: dict[int, Verdict], num_tests: int) -> Outcome:
        failed = [(number, v) for number, v in verdicts.items() if not v.is_passed and v.status != "sandbox_error"]
        broken = [verdict for verdict in verdicts.values() if verdict.status == "sandbox_error"]
        num_passed = sum(verdict.is_passed for verdict in verdicts.values())
        parts = {
            "num_tests": float(num_tests),
            "num_run": float(len(verdicts)),
            "num_passed": float(num_passed),
            "fraction_passed": num_passed / num_tests,
        }
        if broken and (self._scoring == "fraction" or not failed):
            return Outcome("errored", 0.0, why=f"not judged: {broken[0].why}", fault="harness")
        if not failed:
            return Outcome("scored", 1.0, why=f"passed {num_tests} of {num_tests} tests", parts=parts)
        number, verdict = failed[0]
        value = num_passed / num_tests if self._scoring == "fraction" else 0.0
        why = f"failed test {number + 1} of {num_tests}: {verdict.why}"
        if verdict.status == "timeout" and not value:
            return Outcome("timed_out", 0.0, why=why, fault="policy", parts=parts)
        return Outcome("scored", value, why=why, parts=parts)
