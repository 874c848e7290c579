"""What formulas mean, by enumeration: truth tables, and models of one or two things. Written apart from the kernel."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from posttrain.scorers.proof_formulas import Formula, Term

Atoms = frozenset[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class Model:
    """A domain of `size` things, what each name stands for, and the atoms that are true."""

    size: int
    names: dict[str, int]
    atoms: Atoms


def is_true(formula: Formula, model: Model, bound: tuple[int, ...] = ()) -> bool:
    """Return whether a formula is true in a model; `bound` are the things chosen by quantifiers, innermost first."""
    kind, *parts = formula
    if kind == "false":
        return False
    if kind == "atom":
        return (parts[0], tuple(_thing(term, model, bound) for term in parts[1])) in model.atoms
    if kind == "=":
        return _thing(parts[0], model, bound) == _thing(parts[1], model, bound)
    if kind == "not":
        return not is_true(parts[0], model, bound)
    if kind == "forall":
        return all(is_true(parts[0], model, (thing, *bound)) for thing in range(model.size))
    if kind == "exists":
        return any(is_true(parts[0], model, (thing, *bound)) for thing in range(model.size))
    left, right = (is_true(part, model, bound) for part in parts)
    return {"and": left and right, "or": left or right, "implies": not left or right, "iff": left == right}[kind]


def _thing(term: Term, model: Model, bound: tuple[int, ...]) -> int:
    return bound[term[1]] if term[0] == "bound" else model.names[term[1]]


def put_name(body: Formula, name: str, depth: int = 0) -> Formula:
    """Return a quantifier's body with a name in the place of its variable."""
    if body == ("bound", depth):
        return ("name", name, ())
    inner = depth + 1 if body and body[0] in ("forall", "exists") else depth
    return tuple(put_name(part, name, inner) if isinstance(part, tuple) else part for part in body)


def list_models(size: int, names: Sequence[str] = (), predicates: Sequence[tuple[str, int]] = ()) -> Iterator[Model]:
    """Yield every model of a size over names and predicates with their arities."""
    possible = [(name, things) for name, arity in predicates for things in itertools.product(range(size), repeat=arity)]
    for chosen in itertools.product((False, True), repeat=len(possible)):
        atoms = frozenset(atom for atom, is_in in zip(possible, chosen, strict=True) if is_in)
        for things in itertools.product(range(size), repeat=len(names)):
            yield Model(size, dict(zip(names, things, strict=True)), atoms)


def find_counter_model(premises: Sequence[Formula], goal: Formula, models: Sequence[Model]) -> Model | None:
    """Return a model in which the premises are true and the goal is not, or None."""
    for model in models:
        if not is_true(goal, model) and all(is_true(premise, model) for premise in premises):
            return model
    return None
