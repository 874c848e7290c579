"""What a gate found: records of a rule's state and figures, and of the decision; written as JSON beside an artifact."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from posttrain.core.records import ItemResult
from posttrain.gates.rules import RepairName
from posttrain.statistics.power import JointPower

Items = Mapping[str, Sequence[ItemResult]]
"""The items of each task, by the task's name."""
RuleKind = Literal["improve", "keep", "floor", "ceiling"]
State = Literal["passed", "failed", "inconclusive", "unmeasured"]
Action = Literal["promote", "hold", "roll_back", "repair"]
PARENT = "parent"


@dataclass(frozen=True, slots=True)
class GateEvidence:
    """The items that a gate decides on.

    Made by whoever evaluated the policies, read by `decide`. `baselines` holds, by stage name, what the rules compare
    with beside the parent.
    """

    stage: Items
    parent: Items
    baselines: Mapping[str, Items] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Figures:
    """What a rule was decided on; all shares and differences are fractions.

    `estimate` is the difference from the reference (stage less parent or baseline) or, of a floor or ceiling, the
    stage's own mean; `low` and `high` are limits that each hold at `level`, the one-sided level that this rule had at
    this look. `bound` is what the estimate is held against: minus the margin, `by`, the floor or the ceiling.
    `power_to_pass` is how likely the rule passes on so many items where nothing has changed, `power_to_catch` how
    likely it fails where the loss is the margin, both with the share of pairs that was seen to differ. Floors and
    ceilings are decided by their limits and have no `p_value`.
    `items_to_decide` is set where the rule is inconclusive, None also where it would take over a million.
    """

    estimate: float
    low: float
    high: float
    bound: float
    value: float
    reference: float | None
    p_value: float | None
    level: float
    num_items: int
    num_clusters: int
    num_better: int
    num_worse: int
    design_effect: float
    method: str
    power_to_pass: float | None = None
    power_to_catch: float | None = None
    items_to_decide: int | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RuleResult:
    """One rule's state, with a reason a person can read; a keep with a baseline has two.

    `against` is `parent`, a baseline's name, or empty for floors and ceilings. `figures` is None where unmeasured.
    """

    kind: RuleKind
    metric: str
    against: str
    state: State
    reason: str
    figures: Figures | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done with a stage's policy, and why.

    Made by `decision.decide`, carried out by the pipeline. `repair` is the repair to try where the action is `repair`.
    `should_draw_more` says that a held stage has looks left. `level` is the one-sided level of this attempt over all
    its looks, `nominal_level` that of this look.

    Example: a keep failed, `on_fail: [interpolate]`, no attempt used: action `repair`, repair `interpolate`.
    """

    action: Action
    reason: str
    results: tuple[RuleResult, ...]
    repair: RepairName | None
    should_draw_more: bool
    attempts_used: int
    look: int
    planned_looks: int
    level: float
    nominal_level: float
    joint_power: JointPower | None

    def to_json(self) -> dict[str, Any]:
        """Return the decision as JSON values; what is infinite is None."""
        return _plain(dataclasses.asdict(self))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
