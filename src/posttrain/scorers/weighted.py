"""Several scorers as one: terms are averaged by weight, gates multiply, shaping terms add.

    total = (product of gates) * (sum of w_i x_i / sum of w_i over terms) + (sum of w_j y_j over shaping terms)

Every component is first mapped from its declared range onto [0, 1] (a shaping term keeps its sign: [-1, 0] stays a
penalty if no range is declared for it). Components stay apart in the outcome's parts: `<name>` is what went into
the formula, `<name>.<part>` what the component says of itself. Averaging before gating means that no sum of small
terms buys a failed gate back; shaping is added outside of it so that it orders answers among the wrong ones too.

A component that does not apply to a row is left out, the other terms' weights making up for it; if no term
applies, neither does the whole. A policy's failure in a component counts with its declared value. A harness's
failure in any component is one of the whole, since half a reward is not a reward.

What it cannot judge: whether the weights are right. Optimised hard enough, the cheapest component is what is
optimised; keep the parts in view.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from posttrain.core.errors import RecipeError
from posttrain.core.protocols import Scorer
from posttrain.core.records import Completion, Outcome, Problem

Role = Literal["term", "gate", "shaping"]


@dataclass(frozen=True, slots=True)
class Component:
    """One scorer's part in a weighted one.

    Args:
        name: Unique; names the parts of the outcome.
        scorer: Gives the raw value.
        weight: Above 0 for a term, any finite number for shaping; a gate has none.
        role: See the module.
        value_range: What the scorer's values lie between, mapped onto [0, 1] and clipped; None leaves them alone.
        threshold: Of a gate: it is 1 at or above it, else 0; None multiplies by the value itself.

    Raises:
        RecipeError: A value is out of its range, or has no meaning for the role.
    """

    name: str
    scorer: Scorer
    weight: float = 1.0
    role: Role = "term"
    value_range: tuple[float, float] | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.weight) or (self.role == "term" and self.weight <= 0):
            raise RecipeError(
                f"a weight of {self.weight:g}",
                expected="a number above 0 for a term, any finite one for shaping",
                cure="give a penalty the role 'shaping'",
                place=self.name,
            )
        if self.role == "gate" and self.weight != 1.0:
            raise RecipeError(
                "a gate with a weight",
                expected="none: a gate multiplies by its value",
                cure="leave weight out, or make it a term",
                place=self.name,
            )
        if self.role != "gate" and self.threshold is not None:
            raise RecipeError(
                f"a threshold on a {self.role}",
                expected="a threshold on gates alone",
                cure="leave threshold out, or give it the role 'gate'",
                place=self.name,
            )
        low, high = self.value_range or (0.0, 1.0)
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise RecipeError(
                f"a value range of {low:g} to {high:g}",
                expected="two finite numbers, the smaller first",
                place=self.name,
            )

    def map_value(self, value: float) -> float:
        """Return a raw value as it goes into the formula."""
        if self.value_range is not None:
            low, high = self.value_range
            value = min(1.0, max(0.0, (value - low) / (high - low)))
        if self.threshold is not None:
            return float(value >= self.threshold)
        return value


@dataclass(slots=True)
class _Sums:
    """What the components of one item add up to."""

    gates: float = 1.0
    terms: float = 0.0
    weights: float = 0.0
    shaping: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)
    sentences: list[str] = field(default_factory=list)
    failures: list[Outcome] = field(default_factory=list)
    has_scored_term: bool = False


class WeightedScorer:
    """Scores by several components (`core.protocols.Scorer`).

    Args:
        components: At least one term.
        name: Of the whole.

    Raises:
        RecipeError: No term, or two components share a name.
    """

    def __init__(self, components: Sequence[Component], *, name: str = "weighted") -> None:
        names = [component.name for component in components]
        repeated = next((name for name in names if names.count(name) > 1), None)
        if repeated is not None or not any(component.role == "term" for component in components):
            raise RecipeError(
                f"two components named {repeated!r}" if repeated else "no component with the role 'term'",
                expected="at least one term, and a name of its own for each component",
                cure="rename one" if repeated else "say which component is to be maximised",
                place=name,
            )
        self.name = name
        self.components = tuple(components)

    def score(self, items: Sequence[tuple[Problem, Completion]]) -> list[Outcome]:
        """Return one outcome for each item, in order."""
        columns = [component.scorer.score(items) for component in self.components]
        return [self._combine(outcomes) for outcomes in zip(*columns, strict=True)]

    def _combine(self, outcomes: Sequence[Outcome]) -> Outcome:
        sums = _Sums()
        for component, outcome in zip(self.components, outcomes, strict=True):
            if outcome.fault == "harness":
                return Outcome("errored", 0.0, why=f"{component.name}: {outcome.why}", fault="harness")
            _add(sums, component, outcome)
        if not sums.weights:
            return Outcome("not_applicable", 0.0, why="no term applies to this row", parts=sums.parts)
        value = sums.gates * sums.terms / sums.weights + sums.shaping
        why = "; ".join(sums.sentences)
        if sums.has_scored_term:
            return Outcome("scored", value, why=why, parts=sums.parts)
        return Outcome(sums.failures[0].status, value, why=why, fault="policy", parts=sums.parts)


def _add(sums: _Sums, component: Component, outcome: Outcome) -> None:
    sums.parts |= {f"{component.name}.{name}": value for name, value in outcome.parts.items()}
    if outcome.status == "not_applicable":
        sums.sentences.append(f"{component.name} does not apply")
        return
    value = component.map_value(outcome.value)
    sums.parts[component.name] = value
    sums.sentences.append(f"{component.name} {value:.3g}" + (f" ({outcome.why})" if outcome.why else ""))
    if component.role == "gate":
        sums.gates *= value
    elif component.role == "shaping":
        sums.shaping += component.weight * value
    else:
        sums.terms += component.weight * value
        sums.weights += component.weight
        sums.has_scored_term |= outcome.status == "scored"
        if outcome.fault == "policy":
            sums.failures.append(outcome)
