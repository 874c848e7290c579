"""The kernel is sound: random proofs are grown line by line, and what it accepts holds by enumeration."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.scorers.proof_formulas import Formula, parse_formula
from posttrain.scorers.proof_kernel import Checker, Line, ProofError, Ref
from tests.scorers.fact_items import CASES
from tests.scorers.proof_meaning import Model, find_counter_model, list_models, put_name

PROPOSITIONS = [
    *("P", "Q", "~P", "~Q", "~~P", "false", "P & Q", "P | Q", "P -> Q", "Q -> P", "P <-> Q", "P | ~P", "P & ~P"),
    *("(P -> Q) -> P", "~(P | Q)", "P -> false", "P | Q -> P", "P & Q -> Q", "P | P", "~P -> Q"),
]
QUANTIFIED = [
    *("P(a)", "P(b)", "P(c)", "R(a,b)", "R(b,a)", "R(a,a)", "R(b,b)", "R(c,c)", "R(c,a)", "a = b", "b = a", "a = a"),
    *("forall x. P(x)", "exists x. P(x)", "forall x. R(x,a)", "exists x. R(x,x)", "exists x. R(x,b)"),
    *("forall x. R(x,x)", "exists y. R(a,y)", "forall x. exists y. R(x,y)", "exists y. forall x. R(x,y)"),
    *(
        "forall x. forall y. R(x,y)",
        "forall y. R(c,y)",
        "forall x. P(a)",
        "forall x. P(x) -> R(x,x)",
        "exists y. R(c,y)",
    ),
    *("P(b) -> R(b,b)", "exists x. x = a", "forall x. x = b", "~P(a)", "exists x. ~P(x)", "false", "forall x. ~R(x,x)"),
]
PROPOSITIONAL_KINDS = {
    "R": "n", "X": "n", "&I": "nn", "&E": "n", "|I": "n", "|E": "nss", "->I": "s", "->E": "nn", "<->I": "ss",
    "<->E": "nn", "~I": "s", "~E": "nn", "RAA": "s", "DNE": "n",
}  # fmt: skip
QUANTIFIER_KINDS = {"allI": "n", "allE": "n", "existsI": "n", "existsE": "ns", "=I": "", "=E": "nn"}
KINDS = PROPOSITIONAL_KINDS | QUANTIFIER_KINDS
EASY = ("R", "&I", "|I", "->I", "=I")
"""Always possible: proposed seldom, or they would fill every proof."""
PROPOSITIONAL_RULES = [*PROPOSITIONAL_KINDS, *("|E",) * 8]
QUANTIFIED_RULES = [*KINDS, *QUANTIFIER_KINDS, *("existsE", "allI") * 5]
TRIES = 3000
TRUTH_TABLE = list(list_models(1, (), [("P", 0), ("Q", 0)]))
SMALL_MODELS = [model for size in (1, 2) for model in list_models(size, ("a", "b", "c"), [("P", 1), ("R", 2)])]


@dataclass
class Grown:
    """A proof under way: its checker, the subproofs that are open and those that were closed, what was accepted."""

    checker: Checker
    scope: tuple[int, ...] = ()
    spans: list[tuple[int, int]] = field(default_factory=list)
    rules: Counter[str] = field(default_factory=Counter)

    @property
    def lines(self) -> list[Line]:
        return self.checker.lines


def grow_proof(generator: random.Random, premises: list[str], pool: list[str], rules: list[str], tries: int) -> Grown:
    """Propose random lines, right and wrong ones, and keep those that the kernel accepts."""
    formulas = [parse_formula(text) for text in pool]
    grown = Grown(Checker([parse_formula(premise) for premise in premises], "classical"))
    for number, premise in enumerate(premises, 1):
        grown.checker.check(Line(number, parse_formula(premise), "premise", (), ()))
    for _ in range(tries):
        if len(grown.lines) < 40:
            propose_line(generator, grown, formulas, rules)
    return grown


def propose_line(generator: random.Random, grown: Grown, pool: list[Formula], rules: list[str]) -> None:
    number, num_open = len(grown.lines) + 1, len(grown.scope)
    rule = "assume" if generator.random() < 0.01 and num_open < 3 else generator.choice(rules)
    if rule in EASY and generator.random() < 0.98:
        return
    if rule == "assume":
        kept = grown.scope[: generator.randint(0, num_open)]
        line = Line(number, suggest_assumption(generator, grown, pool), rule, (), (*kept, number))
    else:
        kept = grown.scope if generator.random() < 0.8 else grown.scope[: generator.randint(0, num_open)]
        closed = [*grown.spans, *((first, number - 1) for first in grown.scope[len(kept) :])] or [(1, 1)]
        numbers = range(1, number + (generator.random() < 0.05)) or range(1, 2)
        kinds = KINDS[rule]
        refs = tuple(generator.choice(numbers) if kind == "n" else generator.choice(closed[-4:]) for kind in kinds)
        line = Line(number, suggest_formula(generator, rule, refs, grown, pool), rule, refs, kept)
    if any(other.formula == line.formula and other.rule == rule for other in grown.lines[-12:]):
        return
    try:
        grown.checker.check(line)
    except ProofError:
        return
    grown.spans += [(first, number - 1) for first in grown.scope[len(kept) :]]
    grown.scope = line.scope
    grown.rules[rule] += 1


def suggest_assumption(generator: random.Random, grown: Grown, pool: list[Formula]) -> Formula:
    """Return half of an alternative or an instance of something that exists, where one is at hand, or any formula."""
    useful = [line.formula for line in grown.lines if line.formula[0] in ("or", "exists")]
    if not useful or generator.random() < 0.3:
        return generator.choice(pool)
    chosen = generator.choice(useful)
    return generator.choice(chosen[1:]) if chosen[0] == "or" else put_name(chosen[1], generator.choice("abc"))


def suggest_formula(
    generator: random.Random, rule: str, refs: tuple[Ref, ...], grown: Grown, pool: list[Formula]
) -> Formula:
    """Return what a rule would give, or some part of what it is given, or any formula of the pool."""
    ends = [end for ref in refs for end in (ref if isinstance(ref, tuple) else (ref,))]
    parts = [grown.lines[end - 1].formula if end <= len(grown.lines) else pool[0] for end in ends] or [pool[0]]
    made: Formula
    match rule:
        case "&I" | "|I" | "->I" | "<->I":
            sign = {"&I": "and", "|I": "or", "->I": "implies", "<->I": "iff"}[rule]
            made = (sign, parts[0], parts[1] if len(parts) > 1 else generator.choice(pool))
        case "~I":
            made = ("not", parts[0])
        case "~E":
            made = ("false",)
        case _:
            inner = [part for formula in parts for part in formula[1:] if isinstance(part, tuple) and part in pool]
            made = generator.choice([*parts, *inner])
    is_small = len(repr(made)) < 200
    return made if is_small and generator.random() < 0.6 else generator.choice(pool)


def find_unsound(grown: Grown, models: list[Model]) -> list[Formula]:
    premises, lines = grown.checker.premises, grown.lines
    return [
        line.formula
        for line in lines
        if find_counter_model([*premises, *(lines[n - 1].formula for n in line.scope)], line.formula, models)
        is not None
    ]


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.sampled_from(PROPOSITIONS), max_size=4, unique=True))
def test_every_line_that_is_accepted_follows_by_truth_table(seed: int, premises: list[str]) -> None:
    grown = grow_proof(random.Random(seed), premises, PROPOSITIONS, PROPOSITIONAL_RULES, TRIES)
    assert find_unsound(grown, TRUTH_TABLE) == []


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.sampled_from(QUANTIFIED), max_size=4, unique=True))
def test_every_line_that_is_accepted_holds_in_every_small_model(seed: int, premises: list[str]) -> None:
    grown = grow_proof(random.Random(seed), premises, QUANTIFIED, QUANTIFIED_RULES, TRIES)
    assert find_unsound(grown, SMALL_MODELS) == []


def test_the_random_proofs_use_every_rule_and_are_mostly_refused() -> None:
    """The properties above would say nothing if nothing were accepted, or nothing wrong proposed."""
    rules: Counter[str] = Counter()
    for seed in range(60):
        generator = random.Random(seed)
        for pool, kinds in ((PROPOSITIONS, PROPOSITIONAL_RULES), (QUANTIFIED, QUANTIFIED_RULES)):
            rules += grow_proof(generator, generator.sample(pool, 4), pool, kinds, TRIES).rules
    proposed = 60 * 2 * TRIES
    print(f"{rules.total()} of at most {proposed} lines accepted: {dict(rules)}")
    assert set(KINDS) - set(rules) == set()
    assert rules.total() < proposed / 2


def test_the_enumeration_tells_the_fallacies_from_the_theorems() -> None:
    """The judge of the properties is judged: it agrees with the list of proofs where both can say."""
    checked = Counter[bool]()
    for line in (CASES / "proofs.jsonl").read_text(encoding="utf-8").splitlines():
        case = json.loads(line)
        formulas = [parse_formula(text) for text in (*case["premises"], case["goal"])]
        symbols = repr(formulas)
        if "'f'" in symbols or "'S'" in symbols:
            continue
        is_propositional = "'name'" not in symbols and "'bound'" not in symbols
        models = (
            list(list_models(1, (), [(name, 0) for name in "PQR"]))
            if is_propositional
            else [m for n in (1, 2) for m in list_models(n, ("a", "b", "c"), [("P", 1), ("Q", 1), ("R", 2)])]
        )
        counter_model = find_counter_model(formulas[:-1], formulas[-1], models)
        if case["is_accepted"]:
            assert counter_model is None, case["name"]
        checked[counter_model is None] += 1
    assert checked[True] >= 10 and checked[False] >= 10


@pytest.mark.parametrize(
    ("premises", "goal"),
    [(["P -> Q", "Q"], "P"), (["exists x. P(x)"], "forall x. P(x)"), (["P(a)"], "forall x. P(x)")],
)
def test_the_enumeration_finds_a_counter_model(premises: list[str], goal: str) -> None:
    models = TRUTH_TABLE if "(" not in goal else SMALL_MODELS
    assert find_counter_model([parse_formula(one) for one in premises], parse_formula(goal), models) is not None
