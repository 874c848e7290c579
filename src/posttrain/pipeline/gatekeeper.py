"""Gates carried out: measure, decide, search repairs, decide once on each, and record every look.

The stage's policy, its parent and the baselines are measured on the gate's tasks. With several looks a growing random
part of the rows is asked, the same for all. A failed gate has its repairs searched on development rows
(`repair.py`); what the search finds is decided on once, on the rows that results are told of.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from posttrain.core.records import Artifact, ItemResult
from posttrain.evaluation.items import drop_texts
from posttrain.evaluation.task import EvaluationTask
from posttrain.gates.decision import decide
from posttrain.gates.results import Decision, GateEvidence, Items
from posttrain.gates.rules import GateRules, RepairName, list_baselines, list_tasks
from posttrain.gates.search import compute_clearance
from posttrain.pipeline.gate_record import GateLedger, describe_attempt
from posttrain.pipeline.measure import Measured, Measurer, Rows, measure_all

OnMeasured = Callable[[Artifact, Measured], None]


@dataclass(frozen=True, slots=True)
class GateJob:
    """One gate of one round.

    Made by the run, read by the gatekeeper. `baselines` are the policies of the stages that keeps name beside the
    parent. `is_overridden` says that the user takes the policy whatever the gate finds.
    """

    label: str
    rules: GateRules
    policy: Artifact
    parent: Artifact
    baselines: Mapping[str, Artifact]
    is_overridden: bool = False


@dataclass(frozen=True, slots=True)
class Judged:
    """What a gate says of a candidate on development rows: whether it passes, its clearance (`gates.search`), why."""

    passes: bool
    clearance: float
    results: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Found:
    """What a search came to: the candidate to decide on, None where nothing could be made, and its record."""

    policy: Artifact | None
    record: dict[str, Any]


class Search(Protocol):
    """Looks for a repaired policy."""

    def __call__(self, name: RepairName, judge: Callable[[Artifact], Judged]) -> Found:
        """Return the candidate of a repair that does best in the judge's eyes."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a gate: the policy that is passed on, and the record for `run.json`.

    `decision` is `promote`, `roll_back` (the parent is passed on) or `hold` (nothing is). `decided` is the policy that
    the last decision was made on.
    """

    decision: str
    reason: str
    policy: Artifact
    decided: Artifact
    record: dict[str, Any]


@dataclass(slots=True)
class Gatekeeper:
    """Carries gates out.

    Args:
        measurer: Measures policies.
        tasks: The recipe's tasks.
        ledger: Counts looks.
        on_measured: Told of every measurement of the rows that results are told of.
    """

    measurer: Measurer
    tasks: Sequence[EvaluationTask]
    ledger: GateLedger
    on_measured: OnMeasured

    def carry_out(self, job: GateJob, search: Search) -> Verdict:
        """Return what a gate makes of a stage's policy."""
        policy: Artifact | None = job.policy
        decided, attempts = job.policy, []
        repair: RepairName | None = None
        record: dict[str, Any] | None = None
        used = 0
        while True:
            decisions = [] if policy is None else self._decide(job, policy, used)
            attempts.append(describe_attempt(repair, policy, record, decisions))
            decided = policy or decided
            action = decisions[-1].action if decisions else self._next_action(job.rules, used)
            if action != "repair" or job.is_overridden:
                break
            repair = job.rules.on_fail[used]
            used += 1
            found = search(repair, lambda candidate: self._judge(job, candidate))
            record, policy = found.record, found.policy
        return self._conclude(job, decided, action, attempts)

    def _next_action(self, rules: GateRules, used: int) -> str:
        """Return what follows a repair that came to nothing."""
        return "repair" if used < rules.num_attempts else "roll_back"

    def _conclude(self, job: GateJob, policy: Artifact, action: str, attempts: list[dict[str, Any]]) -> Verdict:
        decided = [decision for attempt in attempts for decision in attempt["decisions"]]
        reason = decided[-1]["reason"]
        if action == "roll_back" and decided[-1]["action"] == "repair":
            reason = f"roll back, {len(attempts) - 1} repairs tried, the last of which came to nothing: {reason}"
        is_overridden = job.is_overridden and action != "promote"
        decision = "promote" if is_overridden else action
        passed_on = {"promote": job.policy if is_overridden else policy, "roll_back": job.parent}.get(decision, policy)
        looks, earlier = self.ledger.count(job.label)
        record = {
            "decision": decision,
            "reason": reason,
            "promoted": passed_on.hash if decision != "hold" else None,
            "is_overridden": is_overridden,
            "looks": looks,
            "earlier_looks": earlier,
            "attempts": attempts,
        }
        for name in dict.fromkeys(attempt["policy"] for attempt in attempts if attempt["policy"] is not None):
            self.ledger.write(job.label, name, record)
        return Verdict(decision, reason, passed_on, policy, record)

    def _decide(self, job: GateJob, policy: Artifact, attempts_used: int) -> list[Decision]:
        """Return the decision of every look at a candidate, the last of which stands."""
        rules, decisions = job.rules, []
        for look in range(1, rules.looks + 1):
            evidence, hashes = self._gather(job, policy, "data", look / rules.looks)
            fractions = [number / rules.looks for number in range(1, look + 1)]
            decision = decide(rules, evidence, attempts_used=attempts_used, look=look, fractions=fractions)
            self.ledger.add(job.label, hashes, [policy.hash, rules.identity(), attempts_used, look])
            decisions.append(decision)
            if not decision.should_draw_more:
                break
        return decisions

    def _judge(self, job: GateJob, candidate: Artifact) -> Judged:
        """Return what the gate would say on development rows."""
        evidence, _ = self._gather(job, candidate, "development", 1.0)
        # All rows at once, at the level that one candidate has on the rows that count.
        rules = job.rules.model_copy(update={"looks": 1})
        decision = decide(rules, evidence)
        passes, clearance = decision.action == "promote", compute_clearance(decision.results)
        return Judged(passes, clearance, decision.to_json()["results"])

    def _gather(
        self, job: GateJob, policy: Artifact, rows: Rows, fraction: float
    ) -> tuple[GateEvidence, dict[str, str]]:
        """Return the items of all sides, and the hash of each task."""
        names = list_tasks(job.rules)
        tasks = [task for task in self.tasks if task.name in names]
        firsts = {task.name: math.ceil(fraction * len(self.measurer.prepare(task, rows).problems)) for task in tasks}
        sides: dict[str, Items] = {}
        hashes: dict[str, str] = {}
        policies = {one.hash: one for one in (job.parent, *job.baselines.values(), policy)}
        for policy_hash, one in policies.items():
            measured = self._measure(one, tasks, rows, firsts)
            sides[policy_hash] = {name: _read(found) for name, found in measured.items()}
            hashes = {name: found.hash for name, found in measured.items()}
        baselines = {name: sides[job.baselines[name].hash] for name in list_baselines(job.rules)}
        return GateEvidence(sides[policy.hash], sides[job.parent.hash], baselines), hashes

    def _measure(
        self, artifact: Artifact, tasks: Sequence[EvaluationTask], rows: Rows, firsts: Mapping[str, int]
    ) -> dict[str, Measured]:
        def done(measured: Measured) -> None:
            if rows == "data":
                self.on_measured(artifact, measured)

        with ExitStack() as stack:
            policy = self.measurer.open(stack, Path(artifact.folder), artifact.hash)
            return measure_all(self.measurer, policy, tasks, rows=rows, firsts=firsts, done=done)


def _read(measured: Measured) -> list[ItemResult]:
    return [drop_texts(item) for item in measured.iterate_items()]
