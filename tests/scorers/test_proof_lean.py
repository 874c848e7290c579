"""Lean: what is refused before it runs, what its messages mean, and (where Lean is installed) real proofs."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from posttrain.core.errors import DataError, SandboxError
from posttrain.core.records import Outcome
from posttrain.sandbox.limits import Limits
from posttrain.scorers.proof import ProofScorer
from posttrain.scorers.proof_lean import LeanChecker, find_refused, read_messages
from tests.scorers.fact_items import make_item, score_everywhere

TASK = {"lean_statement": "theorem swap (p q : Prop) : p ∧ q → q ∧ p"}
PROOF = "by\n  intro h\n  exact ⟨h.2, h.1⟩"
LIMITS = Limits(cpu_seconds=20.0, wall_seconds=60.0, memory_bytes=4 << 30, output_bytes=1 << 20)

STAND_IN = f"""#!{sys.executable}
import json, os, sys, time
text = sys.stdin.read()
lines = text.splitlines()
last = len(lines)
def say(line, data, severity="info"):
    print(json.dumps({{"severity": severity, "pos": {{"line": line, "column": 0}}, "data": data}}))
name = lines[-1].split()[-1]
if "wrong" in text:
    say(4, "unsolved goals", "error")
elif "statement_error" in text:
    say(3, "unknown identifier", "error")
elif "policy_spoils" in text:
    say(3, "failed to prove termination", "error")
elif "swallow" in text:
    pass
elif "spoof" in text:
    say(4, f"'{{name}}' does not depend on any axioms")
elif "raw" in text:
    print("'swap' does not depend on any axioms")
    say(last, f"'{{name}}' does not depend on any axioms")
elif "by_axiom" in text:
    say(last, f"'{{name}}' depends on axioms: [propext, myAxiom]")
elif "classical" in text:
    say(last, f"'{{name}}' depends on axioms: [propext, Classical.choice, Quot.sound]")
elif "spin" in text:
    while True: pass
elif "broken" in text:
    sys.stderr.write("unknown option"); sys.exit(2)
elif "environment" in text:
    say(last, repr(sorted(os.environ)), "error")
elif "theorem other" in text:
    say(last, "'swap' does not depend on any axioms")
else:
    say(last, f"'{{name}}' does not depend on any axioms")
"""


@pytest.fixture(scope="module")
def checker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LeanChecker]:
    """A checker with a stand-in for Lean that answers by words in the proof."""
    path = tmp_path_factory.mktemp("lean") / "lean"
    path.write_text(STAND_IN, encoding="utf-8")
    path.chmod(0o755)
    made = LeanChecker(is_isolated=True, lean=str(path), limits=LIMITS)
    yield made
    made.close()


def score(checker: LeanChecker, text: str, columns: Any = None) -> Outcome:
    return ProofScorer(checker=checker).score([make_item(text, columns or TASK)])[0]


@pytest.mark.parametrize(
    "proof",
    [
        "by sorry",
        "by admit",
        "by\n  exact sorryAx _ false",
        "by native_decide",
        "by decide +native",
        "by decide (config := { native := true })",
        "by bv_decide",
        "by trivial\naxiom cheat : False",
        "by trivial\n#eval 1",
        "by trivial\n#print axioms swap",
        "by trivial\nimport Mathlib",
        "by trivial\nopen Lean in #check 1",
        'by trivial\nmacro "x" : tactic => `(tactic| trivial)',
        "by trivial\nmacro_rules | `(tactic| x) => `(tactic| skip)",
        "by trivial\nelab \"x\" : tactic => pure ()",
        "by run_tac (pure ())",
        "by exact by_elab (pure default)",
        "by trivial\nunsafe def x := 1",
        "by trivial\n@[implemented_by x] def y := 1",
        "by trivial\n@[extern \"x\"] def y := 1",
        "by trivial\nset_option debug.skipKernelTC true",
        "by trivial\nnotation \"x\" => 1",
        "by trivial\nlocal instance : Decidable p := x",
        "by trivial\ntheorem swap2 : True := trivial",
        "by trivial\nend Foo",
        "by exact Lean.ofReduceBool _ _ rfl",
        "by exact (Lean.Elab.Term.elabTerm x)",
        "by exact «sorry»",
        "by exact lcProof",
        "by exact (unsafeCast ())",
        "by trivial -- sorry",
        "by trivial /- sorry -/",
        "by initialize x : IO Unit ← pure ()",
        "by exact include_str \"/etc/passwd\"",
        "by stop",
        "by trivial\u2028axiom x : False",
        "by\x00 trivial",
        "by " + "simp; " * 10_000,
    ],
)  # fmt: skip
def test_a_proof_with_a_refused_word_never_reaches_lean(proof: str) -> None:
    assert find_refused(proof) is not None


@pytest.mark.parametrize(
    "proof",
    [
        PROOF,
        "fun h => ⟨h.2, h.1⟩",
        "by\n  rcases h with ⟨a, b⟩\n  simp only [Nat.add_comm, h] at *\n  omega",
        "by\n  induction n with\n  | zero => rfl\n  | succ n ih => rw [ih]",
        "by\n  have h₁ : p := by assumption\n  let x := #[1, 2]\n  calc a = b := by rfl\n    _ = c := by simp [*]",
        "by\n  by_contra h\n  push_neg at h\n  exact absurd h (by decide)",
    ],
)
def test_an_ordinary_proof_holds_nothing_that_is_refused(proof: str) -> None:
    assert find_refused(proof) is None


def test_without_isolation_or_without_lean_the_checker_does_not_start_and_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(SandboxError, match="isolated") as caught:
        LeanChecker(is_isolated=False)
    assert "is_isolated=True" in caught.value.cure
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("LEAN", raising=False)
    with pytest.raises(SandboxError, match="not installed") as caught:
        LeanChecker(is_isolated=True)
    assert "elan" in caught.value.cure


@pytest.mark.parametrize("proof", [PROOF, f":= {PROOF}", "by classical\n  exact x", f"```lean\n{PROOF}\n```"])
def test_a_proof_that_lean_accepts_with_allowed_axioms_scores(checker: LeanChecker, proof: str) -> None:
    outcome = score(checker, proof)
    assert (outcome.status, outcome.value) == ("scored", 1.0), outcome.why


@pytest.mark.parametrize(
    ("proof", "why"),
    [
        ("by sorry", "'sorry', which is refused"),
        ("by wrong", "unsolved goals"),
        ("by exact by_axiom", "rests on myAxiom"),
        ("by swallow /-", "did not reach the end"),
        ('by trace "spoof"', "did not reach the end"),
        ("by raw", "no message"),
    ],
)
def test_what_lean_does_not_accept_scores_nothing_with_the_reason(checker: LeanChecker, proof: str, why: str) -> None:
    outcome = score(checker, proof)
    assert (outcome.status, outcome.value, outcome.fault) == ("scored", 0.0, None)
    assert why in outcome.why


def test_lean_that_fails_by_itself_is_the_harness_failure_and_one_at_its_limit_the_policys(tmp_path: Path) -> None:
    path = tmp_path / "lean"
    path.write_text(STAND_IN, encoding="utf-8")
    path.chmod(0o755)
    limits = Limits(cpu_seconds=1.0, wall_seconds=20.0, memory_bytes=4 << 30, output_bytes=1 << 20)
    checker = LeanChecker(is_isolated=True, lean=str(path), limits=limits)
    broken = score(checker, "by broken")
    assert (broken.status, broken.fault) == ("errored", "harness") and "unknown option" in broken.why
    spinning = score(checker, "by spin")
    assert (spinning.status, spinning.fault, spinning.value) == ("timed_out", "policy", 0.0)
    assert score(checker, PROOF).value == 1.0
    checker.close()


def test_an_error_in_the_statement_is_the_tasks_only_where_the_statement_fails_by_itself(checker: LeanChecker) -> None:
    bad = {"lean_statement": "theorem swap (statement_error : Prop) : statement_error"}
    with pytest.raises(DataError, match="unknown identifier") as caught:
        score(checker, PROOF, bad)
    assert caught.value.place == "row-1"
    assert score(checker, "by policy_spoils").value == 0.0


@pytest.mark.parametrize(
    "columns",
    [
        {"x": 1},
        {"lean_statement": 3},
        {"lean_statement": "example : True"},
        {"lean_statement": "theorem t : True := trivial"},
        {"lean_statement": "theorem t"},
        {**TASK, "lean_header": 7},
    ],
)
def test_a_problem_without_a_statement_is_refused_with_its_row_and_the_cure(
    checker: LeanChecker, columns: dict[str, Any]
) -> None:
    with pytest.raises(DataError) as caught:
        score(checker, PROOF, columns)
    assert caught.value.place == "row-1" and caught.value.cure


def test_lean_sees_the_named_variables_of_the_environment_only(
    checker: LeanChecker, monkeypatch: pytest.MonkeyPatch
) -> None:
    why = score(checker, "by environment").why
    assert "PATH" in why
    assert {name for name in os.environ if f"'{name}'" in why} <= {
        "PATH",
        "HOME",
        "LEAN_PATH",
        "ELAN_HOME",
        "LEAN_SYSROOT",
        "LC_CTYPE",
    }


def test_messages_that_are_no_messages_are_errors() -> None:
    found = read_messages('{"severity": "info", "pos": {"line": 3}, "data": "x"}\n\nnoise\n{"pos": 3}\n[]\n')
    assert [message["severity"] for message in found] == ["info", "error", "error", "error"]


def test_outcomes_are_the_same_from_a_thread_a_forked_process_and_an_event_loop(checker: LeanChecker) -> None:
    texts = [PROOF, "", "by sorry", "by wrong"]
    first, *others = score_everywhere(ProofScorer(checker=checker), [make_item(text, TASK) for text in texts])
    assert [outcome.value for outcome in first] == [1.0, 0.0, 0.0, 0.0]
    assert all(other == first for other in others)


@pytest.mark.skipif(shutil.which(os.environ.get("LEAN") or "lean") is None, reason="Lean 4 is not installed")
def test_real_lean_accepts_a_proof_and_refuses_a_false_one_and_one_by_another_axiom() -> None:
    checker = LeanChecker(is_isolated=True)
    assert score(checker, PROOF).value == 1.0
    assert score(checker, "fun h => ⟨h.2, h.1⟩").value == 1.0
    assert score(checker, "by\n  intro h\n  exact h").value == 0.0
    assert score(checker, "by trivial").value == 0.0
    assert score(checker, "by\n  intro h /-").value == 0.0
    axiom = {**TASK, "lean_header": "axiom cheat : False"}
    assert "cheat" in score(checker, "cheat.elim", axiom).why
    with pytest.raises(DataError):
        score(checker, PROOF, {"lean_statement": "theorem swap : nonsense"})
    checker.close()
