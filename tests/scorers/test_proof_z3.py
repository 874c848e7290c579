"""Z3: verdicts, lemmas and counter-models, nothing but formulas let in, and its time-outs typed by whose they are."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator
from typing import Any

import pytest

from posttrain.core.errors import DataError, SandboxError
from posttrain.core.records import Outcome
from posttrain.sandbox.limits import Limits
from posttrain.scorers.proof import ProofScorer
from posttrain.scorers.proof_smtlib import SmtError, read_declarations, read_formula, read_model_line
from posttrain.scorers.proof_z3 import Z3Checker
from tests.scorers.fact_items import make_item, score_everywhere

pytestmark = pytest.mark.skipif(importlib.util.find_spec("z3") is None, reason="z3-solver is not installed")

VALID: dict[str, Any] = {
    "declarations": "(declare-const x Int) (declare-const y Int) (declare-fun f (Int) Int)\n"
    "(define-fun twice ((n Int)) Int (* 2 n))",
    "assumptions": ["(> x 2)"],
    "goal": "(> (* x x) 4)",
}
INVALID = {**VALID, "goal": "(> (* x x) 9)"}
FERMAT = {
    "declarations": "(declare-const a Int)(declare-const b Int)(declare-const c Int)",
    "assumptions": ["(> a 0)", "(> b 0)", "(> c 0)"],
    "goal": "(not (= (+ (* a a a) (* b b b)) (* c c c)))",
}


@pytest.fixture(scope="module")
def checker() -> Iterator[Z3Checker]:
    made = Z3Checker()
    yield made
    made.close()


def score(checker: Z3Checker, text: str, columns: Any = None) -> Outcome:
    return ProofScorer(checker=checker).score([make_item(text, columns or VALID)])[0]


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        (VALID, "verdict: valid"),
        (VALID, "```\nVerdict: valid\n\nlemma: (>= x 3)\nlemma: (>= (* x x) (* 3 x))\n```"),
        (VALID, "verdict: valid\nlemma: (forall ((n Int)) (=> (> n 2) (>= (* n n) 9)))"),
        (VALID, "verdict: valid\nlemma: (let ((z (twice x))) (> z 4))"),
        (INVALID, "verdict: invalid\nmodel: (= x 3)\nmodel: (= y (- 1))"),
        (INVALID, "verdict: invalid\nmodel: (= x 3)\nmodel: (= y 0)\nmodel: (= (f 3) 7)"),
    ],
)
def test_what_z3_confirms_is_accepted(checker: Z3Checker, columns: dict[str, Any], text: str) -> None:
    outcome = score(checker, text, columns)
    assert (outcome.status, outcome.value) == ("scored", 1.0), outcome.why


@pytest.mark.parametrize(
    ("columns", "text", "why"),
    [
        (INVALID, "verdict: valid", "not so that the goal follows"),
        (VALID, "verdict: invalid", "without a counter-model"),
        (VALID, "verdict: invalid\nmodel: (= x 3)\nmodel: (= y 0)", "not so that the counter-model holds"),
        (INVALID, "verdict: invalid\nmodel: (= x 3)", "no value to 'y'"),
        (INVALID, "verdict: invalid\nmodel: (= x 3)\nmodel: (= x 4)\nmodel: (= y 0)", "not so that the counter-model"),
        (VALID, "verdict: valid\nlemma: (> x 5)", "not so that lemma 1 follows"),
        (VALID, "verdict: valid\nlemma: (> x 2)\nlemma: false", "not so that lemma 2 follows"),
    ],
)
def test_what_z3_refutes_scores_nothing_and_the_step_is_named(
    checker: Z3Checker, columns: dict[str, Any], text: str, why: str
) -> None:
    outcome = score(checker, text, columns)
    assert (outcome.status, outcome.value) == ("scored", 0.0)
    assert why in outcome.why


@pytest.mark.parametrize(
    "text",
    [
        "It is valid.",
        "verdict: valid\nverdict: invalid",
        "verdict: perhaps",
        "verdict: valid\nmodel: (= x 3)",
        "verdict: invalid\nlemma: (> x 2)",
        "verdict: valid\nlemma: (> x 2)) (assert false",
        "verdict: valid\nlemma: (assert false)",
        "verdict: valid\nlemma: (check-sat)",
        "verdict: valid\nlemma: (set-option :timeout 1)",
        "verdict: valid\nlemma: (! (> x 2) :named z)",
        "verdict: valid\nlemma: |a quoted symbol|",
        'verdict: valid\nlemma: (= "a" "a")',
        "verdict: valid\nlemma: (> x 2) ; (assert false)",
        "verdict: valid\nlemma: (declare-const z Int)",
        "verdict: valid\nlemma: (forall ((x Int)) (> x 2))",
        "verdict: valid\nlemma: (let ((x 3)) (> x 2))",
        "verdict: valid\nlemma: (exists ((z Foo)) true)",
        "verdict: valid\nlemma: (and x 3)",
        "verdict: valid\nlemma: (> x 2) (> x 3)",
        "verdict: valid\nlemma: (" + "(not " * 500 + "true" + ")" * 501,
        "verdict: valid\nlemma: " + "(> x 2)" * 2000,
        "verdict: valid\n" + "lemma: true\n" * 200,
        "verdict: invalid\nmodel: (= x y)",
        "verdict: invalid\nmodel: (> x 3)",
        "verdict: invalid\nmodel: (= (+ x 1) 3)",
        'verdict: valid\nlemma: (include "/etc/passwd")',
    ],
)
def test_whatever_is_no_formula_is_unparsed_and_never_reaches_z3(checker: Z3Checker, text: str) -> None:
    outcome = score(checker, text)
    assert (outcome.status, outcome.value, outcome.fault) == ("unparsed", 0.0, "policy"), outcome.why


def test_what_z3_cannot_say_is_the_policys_where_it_gave_the_step_and_else_the_harness(checker: Z3Checker) -> None:
    bare = score(checker, "verdict: valid", FERMAT)
    assert (bare.status, bare.fault) == ("errored", "harness")
    step = score(checker, "verdict: valid\nlemma: (not (= (* a a a a) (+ (* b b b b) (* c c c c))))", FERMAT)
    assert (step.status, step.value, step.fault) == ("timed_out", 0.0, "policy")
    assert "lemma 1" in step.why


def test_a_query_that_outruns_its_limits_is_killed_and_the_next_is_answered() -> None:
    limits = Limits(cpu_seconds=1.0, wall_seconds=60.0, memory_bytes=2 << 30, output_bytes=1 << 16)
    checker = Z3Checker(steps=2**31 - 1, limits=limits)
    hard = "verdict: valid\nlemma: (not (= (* a a a a) (+ (* b b b b) (* c c c c))))"
    items = [make_item(hard, FERMAT), make_item("verdict: valid", FERMAT), make_item("verdict: valid", VALID)]
    killed, bare, answered = ProofScorer(checker=checker).score(items)
    assert (killed.status, killed.fault, killed.value) == ("timed_out", "policy", 0.0)
    assert (bare.status, bare.fault) == ("errored", "harness")
    assert answered.value == 1.0
    checker.close()


def test_a_bare_invalid_may_be_allowed() -> None:
    checker = Z3Checker(requires_model=False)
    assert score(checker, "verdict: invalid", INVALID).value == 1.0
    assert score(checker, "verdict: invalid", VALID).value == 0.0
    checker.close()


@pytest.mark.parametrize(
    "columns",
    [
        {**VALID, "goal": None},
        {**VALID, "goal": "(> q 2)"},
        {**VALID, "assumptions": "(> x 2)"},
        {**VALID, "declarations": "(assert false)"},
        {**VALID, "declarations": "(declare-const x Foo)"},
        {**VALID, "declarations": "(declare-const and Bool)"},
        {**VALID, "declarations": "(declare-const x Int)(declare-const x Int)"},
        {**VALID, "goal": "(and x 3)"},
    ],
)
def test_a_task_that_cannot_be_read_is_refused_with_its_row_and_the_cure(
    checker: Z3Checker, columns: dict[str, Any]
) -> None:
    with pytest.raises(DataError) as caught:
        score(checker, "verdict: valid", columns)
    assert caught.value.place == "row-1" and caught.value.cure


def test_without_z3_the_checker_does_not_start_and_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SandboxError) as caught:
        Z3Checker()
    assert "pip install" in caught.value.cure


def test_formulas_are_written_again_from_what_was_read() -> None:
    vocabulary, commands = read_declarations(
        "(declare-const  x\n Int)(declare-sort U 0)(declare-const u U)(declare-const v (_ BitVec 8))"
    )
    assert commands.splitlines()[0] == "(declare-const x Int)"
    assert vocabulary.constants == {"x", "v"}
    assert read_formula("(and (> x\n\n 2)   true)", vocabulary) == "(and (> x 2) true)"
    assert read_model_line("(= v #xff)", vocabulary) == ("v", "(= v #xff)")
    for text in ("(= u 3", "()", "(x)", "3 4", "(= x 3))", "\x00"):
        with pytest.raises(SmtError):
            read_formula(text, vocabulary)


def test_outcomes_are_the_same_from_a_thread_a_forked_process_and_an_event_loop(checker: Z3Checker) -> None:
    texts = ["verdict: valid", "", "verdict: valid\nlemma: (> x 5)", "verdict: valid\nlemma: (> x 1)"]
    first, *others = score_everywhere(ProofScorer(checker=checker), [make_item(text, VALID) for text in texts])
    assert [outcome.value for outcome in first] == [1.0, 0.0, 0.0, 1.0]
    assert all(other == first for other in others)


def test_throughput_is_printed(checker: Z3Checker) -> None:
    items = [make_item("verdict: valid\nlemma: (> x 1)", VALID)] * 50
    start = time.perf_counter()
    outcomes = ProofScorer(checker=checker).score(items)
    print(f"proof/z3: {len(items) / (time.perf_counter() - start):,.0f} completions/s by the wall clock, one process")
    assert {outcome.value for outcome in outcomes} == {1.0}
