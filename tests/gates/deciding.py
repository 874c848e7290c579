"""Tables that gates decide on in the tests, and short ways to ask for a decision."""

from __future__ import annotations

from typing import Any

from posttrain.core.config import parse_config
from posttrain.core.records import ItemResult
from posttrain.gates.decision import decide
from posttrain.gates.results import Decision, GateEvidence
from posttrain.gates.rules import GateRules
from tests.gates.made_up_items import build_table

KEEP = {"metric": "facts", "margin": 0.08}
SAME = build_table(300, 0, 0, 100)  # nothing changed
SLIGHT = build_table(300, 20, 24, 100)  # 444 pairs, -0.9 points: within the margin
LOSS = build_table(250, 5, 60, 100)  # 415 pairs, -13.3 points
FEW = build_table(20, 2, 3, 5)  # 30 pairs, -3.3 points
GAIN = build_table(200, 60, 10, 100)  # 370 pairs, +13.5 points
Sides = tuple[list[ItemResult], list[ItemResult]]


def evidence(baselines: dict[str, list[ItemResult]] | None = None, **tasks: Sides) -> GateEvidence:
    return GateEvidence(
        stage={name: after for name, (_, after) in tasks.items()},
        parent={name: before for name, (before, _) in tasks.items()},
        baselines={name: {"facts": items} for name, items in (baselines or {}).items()},
    )


def rules(**values: Any) -> GateRules:
    return parse_config(GateRules, values, place="gate")


def states(decision: Decision) -> list[str]:
    return [result.state for result in decision.results]


def one(values: dict[str, Any], sides: Sides, **arguments: Any) -> Decision:
    return decide(rules(**values), evidence(facts=sides), **arguments)
