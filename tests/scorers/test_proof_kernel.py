"""The kernel: theorems are accepted, fallacies are not, and what cannot be read is told from what does not follow."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from posttrain.scorers.proof_formulas import FormulaError, parse_formula
from posttrain.scorers.proof_kernel import Logic, ProofError, check_proof
from tests.scorers.fact_items import CASES as DATA

CASES = [json.loads(line) for line in (DATA / "proofs.jsonl").read_text(encoding="utf-8").splitlines()]
THEOREMS = {
    case["name"]: (case["premises"], case["goal"], "\n".join(case["proof"])) for case in CASES if case["is_accepted"]
}
FALLACIES = {
    case["name"]: (case["premises"], case["goal"], "\n".join(case["proof"]))
    for case in CASES
    if not case["is_accepted"]
}


def accepts(premises: Sequence[str], goal: str, text: str, logic: Logic = "classical") -> bool:
    try:
        return check_proof([parse_formula(one) for one in premises], parse_formula(goal), text, logic=logic) > 0
    except ProofError:
        return False


@pytest.mark.parametrize("name", THEOREMS)
def test_a_proof_is_accepted(name: str) -> None:
    premises, goal, text = THEOREMS[name]
    assert check_proof([parse_formula(one) for one in premises], parse_formula(goal), text) == text.count("\n") + 1


@pytest.mark.parametrize("name", FALLACIES)
def test_a_fallacy_is_refused(name: str) -> None:
    premises, goal, text = FALLACIES[name]
    with pytest.raises(ProofError) as caught:
        check_proof([parse_formula(one) for one in premises], parse_formula(goal), text)
    assert not caught.value.is_form


@pytest.mark.parametrize("name", THEOREMS)
def test_a_proof_with_any_one_line_left_out_or_any_ref_changed_is_refused(name: str) -> None:
    premises, goal, text = THEOREMS[name]
    lines = text.splitlines()
    for index in range(len(lines)):
        assert not accepts(premises, goal, "\n".join(lines[:index] + lines[index + 1 :]))
    assert not accepts(premises, goal, "\n".join([*lines[:-1], lines[-1].rstrip("0123456789") + "99"]))


def test_classical_steps_are_refused_in_intuitionistic_logic() -> None:
    for name in ("excluded middle", "double negation"):
        assert not accepts(*THEOREMS[name], logic="intuitionistic")
    assert accepts(*THEOREMS["modus tollens"], logic="intuitionistic")


@pytest.mark.parametrize(
    "text",
    [
        *("", "no proof", "2. P premise", "1. P", "1. P because", "1. P & premise", "1. P premise\n3. P R 1"),
        *("1. | P premise", "1. P assume", "1. P R 1-", "1. P R 1-2-3", "1. (P premise", "1. P premise\nso P."),
        *("1. | | P assume", "1. " + "~" * 500 + "P premise", "1. " + "(" * 500 + "P premise", "1. P(x premise"),
        *("1. " + "P" * 3000 + " premise", "1. forall premise", "1. P R \u00b2"),
        "\n".join(f"{n}. P premise" for n in range(1, 600)),
    ],
)
def test_what_is_no_proof_in_the_format_is_a_matter_of_form(text: str) -> None:
    with pytest.raises(ProofError) as caught:
        check_proof([parse_formula("P")], parse_formula("P"), text)
    assert caught.value.is_form


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("P -> Q -> R", "P -> (Q -> R)"),
        ("P & Q | R", "(P & Q) | R"),
        ("~P & Q", "(~P) & Q"),
        ("P | Q & R -> S", "(P | (Q & R)) -> S"),
        ("forall x. P(x) & Q", "forall y. (P(y) & Q)"),
        ("forall x P(x)", "∀z. P(z)"),
        ("forall x y. R(x,y)", "forall a. forall b. R(a,b)"),
        ("exists x, forall x, P(x)", "exists y. forall z. P(z)"),
        ("a != b", "~(a = b)"),
        ("P ∧ Q ∨ ¬R → ⊥ ↔ S", "(((P & Q) | ~R) -> false) <-> S"),
        ("P /\\ Q \\/ not R", "P and Q or ~R"),
    ],
)
def test_formulas_bind_as_stated_and_names_of_bound_variables_do_not_count(left: str, right: str) -> None:
    assert parse_formula(left) == parse_formula(right)


@pytest.mark.parametrize(
    "text", ["", "P Q", "P &", "& P", "x = ", "forall x. x", "P(", "P()", "1", "P -> -> Q", "false(a)"]
)
def test_what_is_no_formula_is_refused(text: str) -> None:
    with pytest.raises(FormulaError):
        parse_formula(text)
