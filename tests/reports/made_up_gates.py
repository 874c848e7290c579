"""Gates, checks and overrides of a made-up run; the decisions are real ones, on made-up items."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

from posttrain.core.config import parse_config
from posttrain.core.hashing import hash_text
from posttrain.core.records import ItemResult
from posttrain.gates.decision import decide
from posttrain.gates.results import Decision, GateEvidence
from posttrain.gates.rules import GateRules
from tests.gates.made_up_items import build_items, build_table

RULES: dict[str, Any] = {
    "improve": [{"metric": "arithmetic", "by": 0.02}],
    "keep": [
        {"metric": "held_out", "margin": 0.08},
        {"metric": "tools", "margin": 0.05, "baseline": "base", "cumulative_margin": 0.1},
    ],
    "floor": [{"metric": "tools/stopped", "at_least": 0.85}],
    "ceiling": [{"metric": "benign/refused", "at_most": 0.1}],
    "on_fail": ["interpolate", "replay"],
}
GAIN, SLIGHT, LOSS, LEVEL, FEW = (
    (260, 60, 22, 208),
    (340, 18, 27, 165),
    (430, 6, 34, 80),
    (440, 14, 16, 80),
    (20, 2, 3, 5),
)
TEXT_KEYS = ("reason", "metric", "against", "method", "found", "expected", "cure", "stage", "name")
"""Keys below which a text of unknown origin may stand; all other texts are words of the schema."""


def gate_of(stage: str) -> dict[str, Any]:
    """Return the gate of the first stage (promoted after a repair) or of the second (held, and overridden)."""
    return copy.deepcopy(_decide_repaired() if stage == "sft" else _decide_held())


def poison(value: Any, text: Callable[[str], str]) -> Any:
    """Return a record with every text of unknown origin mapped, names of settings and figures too."""
    if isinstance(value, list):
        return [poison(part, text) for part in value]
    if not isinstance(value, dict):
        return value
    found = {}
    for key, part in value.items():
        if key in TEXT_KEYS and isinstance(part, str) and part:
            found[key] = text(part)
        elif key in ("settings", "left_out", "figures") and part and "estimate" not in part:
            found[key] = {text(name): part_value for name, part_value in part.items()}
        else:
            found[key] = poison(part, text)
    return found


def make_preflight() -> list[dict[str, Any]]:
    """Return findings of every status."""
    return [
        {
            "stage": "sft",
            "name": "mask",
            "status": "passed",
            "found": "every one of 64 rows has a trainable token",
            "expected": "a trainable token in every row",
            "cure": "",
            "figures": {"rows": 64, "trained_fraction": 0.37},
        },
        {
            "stage": "sft",
            "name": "memory",
            "status": "passed",
            "found": "0.9 GiB at the peak of a full step",
            "expected": "at most 16 GiB",
            "cure": "",
            "figures": {"peak_gib": 0.91},
        },
        {
            "stage": "sft-expert",
            "name": "length_caps",
            "status": "overridden",
            "found": "27.0 % of 200 completions were cut at 32 tokens",
            "expected": "at most 20 %",
            "cure": "set max_new_tokens to 64: 99 % of right answers are shorter",
            "figures": {"clipped_fraction": 0.27, "max_new_tokens": 32},
        },
        {
            "stage": "sft-expert",
            "name": "step_zero",
            "status": "skipped",
            "found": "",
            "expected": "",
            "cure": "",
            "figures": {},
        },
    ]


def sides(
    counts: tuple[int, int, int, int], task: str, names: tuple[str, str], clusters: int | None = None
) -> tuple[list[ItemResult], list[ItemResult]]:
    """Return the items before and after of a table of pairs, in `clusters` groups if given."""
    before, after = build_table(*counts, names=names)
    if clusters is None:
        return before, after
    groups = [str(index % clusters) for index in range(len(before))]
    values = [[item.outcome.value for item in items] for items in (before, after)]
    parts = [{"stopped": 1.0 if index % 20 else 0.0} for index in range(len(before))]
    made = [
        build_items(side, policy=name, task=task, clusters=groups, parts=parts)
        for side, name in zip(values, names, strict=True)
    ]
    return made[0], made[1]


def _evidence(policy: str, tools: tuple[int, int, int, int], missing: str = "") -> GateEvidence:
    names = ("base", policy)
    tables = {
        "arithmetic": sides(GAIN, "arithmetic", names),
        "held_out": sides(SLIGHT, "held_out", names),
        "tools": sides(tools, "tools", names, clusters=110),
    }
    stage = {name: after for name, (_, after) in tables.items() if name != missing}
    benign = [float(index % 40 == 0) for index in range(400)]
    parts = [{"refused": value} for value in benign]
    stage["benign"] = build_items(benign, policy=policy, task="benign", parts=parts)
    parent = {name: before for name, (before, _) in tables.items()}
    return GateEvidence(stage=stage, parent=parent, baselines={"base": parent})


def _record_attempt(
    repair: str | None, policy: str, decision: Decision, search: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {"repair": repair, "policy": policy, "search": search, "decisions": [decision.to_json()]}


@cache
def _decide_repaired() -> dict[str, Any]:
    rules = parse_config(GateRules, RULES, place="gate")
    own, repaired = hash_text("artifact", "sft", "own"), hash_text("artifact", "sft")
    first = decide(rules, _evidence(own, LOSS))
    second = decide(rules, _evidence(repaired, LEVEL), attempts_used=1)
    candidates = []
    for share, counts in ((0.25, LEVEL), (0.5, LEVEL), (0.75, LOSS)):
        policy = repaired if share == 0.5 else hash_text("artifact", "sft", str(share))
        tried = decide(rules, _evidence(policy, counts))
        results = tried.to_json()["results"]
        lowest = {0.25: 2.88, 0.5: 3.41, 0.75: 0.03}[share]
        candidates.append(
            {
                "settings": {"weight": share, "towards": "parent"},
                "policy": policy,
                "lowest": lowest,
                "is_chosen": share == 0.5,
                "results": results,
            }
        )
    search = {"split": "development", "candidates": candidates}
    return {
        "decision": "promote",
        "reason": second.reason,
        "promoted": repaired,
        "is_overridden": False,
        "looks": 2,
        "earlier_looks": 0,
        "attempts": [_record_attempt(None, own, first), _record_attempt("interpolate", repaired, second, search)],
    }


@cache
def _decide_held() -> dict[str, Any]:
    values = {**RULES, "on_fail": [], "looks": 2, "improve": [{"metric": "arithmetic"}]}
    rules = parse_config(GateRules, values, place="gate")
    policy = hash_text("artifact", "sft-expert")
    held = _evidence(policy, LEVEL, missing="tools")
    few = sides(FEW, "held_out", ("base", policy))
    evidence = GateEvidence(
        stage={**held.stage, "held_out": few[1]}, parent={**held.parent, "held_out": few[0]}, baselines=held.baselines
    )
    looks = [decide(rules, evidence, look=look) for look in (1, 2)]
    return {
        "decision": "promote",
        "reason": looks[-1].reason,
        "promoted": policy,
        "is_overridden": True,
        "looks": 2,
        "earlier_looks": 3,
        "attempts": [
            {
                "repair": None,
                "policy": policy,
                "search": None,
                "decisions": [decision.to_json() for decision in looks],
            }
        ],
    }
