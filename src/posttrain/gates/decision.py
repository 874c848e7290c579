"""The gate's decision, from recorded items alone: promote, hold, repair or roll back.

* Every keep, floor and ceiling must pass, each at the full level of this look (an intersection-union test needs no
  correction); the claimed improvements must pass as a family, by Holm.
* Anything failed: `repair` while attempts are left, then `roll_back`.
* Otherwise anything unmeasured, or inconclusive: `hold`; where looks are left, more items may settle it.
* Otherwise `promote`.

A policy and its repairs are up to 1 + attempts candidates for one place: each is tested at level / (1 + attempts), so
that the chance to promote one that lost the margin stays below the level. Over the looks of one candidate its level is
spent by Lan and DeMets' function. It is the caller's to count: every decision on the same held-out items is an attempt
or a look.

Source: Berger, Technometrics 24 (1982), p. 295 (intersection-union); Holm 1979; Lan and DeMets 1983.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from posttrain.gates.judging import judge_improvements, judge_keep, judge_level
from posttrain.gates.results import PARENT, Action, Decision, GateEvidence, RuleResult
from posttrain.gates.rules import CeilingRule, FloorRule, GateRules, KeepRule, RepairName
from posttrain.statistics.multiplicity import nominal_levels
from posttrain.statistics.power import compute_joint_power


def decide(
    rules: GateRules,
    evidence: GateEvidence,
    *,
    attempts_used: int = 0,
    look: int = 1,
    fractions: Sequence[float] | None = None,
) -> Decision:
    """Return what is to be done with the stage's policy.

    Args:
        rules: The recipe's gate.
        evidence: Items of the stage, its parent and the baselines, of `held_out` rows.
        attempts_used: Repairs tried so far: 0 for the stage's own policy.
        look: Which look at these items this is, from 1 to `rules.looks`.
        fractions: Items at each look so far as a share of those planned for the last; None: equal steps.

    Raises:
        ValueError: The attempts or looks are not those of the rules.
    """
    level = rules.level / (1 + rules.num_attempts)
    if not 0 <= attempts_used <= rules.num_attempts:
        raise ValueError(f"{attempts_used} attempts used of {rules.num_attempts}")
    shares = _check_looks(rules, look, fractions)

    def level_of(total: float) -> float:
        return nominal_levels(total, shares)[-1]

    nominal = level_of(level)
    results = judge_improvements(rules.improve, evidence, level=level, level_of=level_of, power=rules.power)
    for rule, against, margin in _list_comparisons(rules.keep):
        results.append(judge_keep(rule, evidence, against=against, margin=margin, level=nominal, power=rules.power))
    levels: list[FloorRule | CeilingRule] = [*rules.floor, *rules.ceiling]
    results += [judge_level(rule, evidence, level=nominal, power=rules.power) for rule in levels]
    action, repair = _choose(rules, results, attempts_used)
    states = {result.state for result in results}
    should_draw_more = action == "hold" and look < rules.looks and "unmeasured" not in states
    powers = [_power_of(result) for result in results if result.kind == "keep"]
    known = [power for power in powers if power is not None]
    return Decision(
        action=action,
        reason=_explain(action, repair, results, attempts_used, rules.num_attempts, should_draw_more),
        results=tuple(results),
        repair=repair,
        should_draw_more=should_draw_more,
        attempts_used=attempts_used,
        look=look,
        planned_looks=rules.looks,
        level=level,
        nominal_level=nominal,
        joint_power=compute_joint_power(known) if len(known) == len(powers) else None,
    )


def _check_looks(rules: GateRules, look: int, fractions: Sequence[float] | None) -> list[float]:
    if not 1 <= look <= rules.looks:
        raise ValueError(f"look {look} of {rules.looks}")
    shares = [number / rules.looks for number in range(1, look + 1)] if fractions is None else list(fractions)
    if len(shares) != look or (look == rules.looks and shares[-1] != 1):
        raise ValueError(f"fractions {shares} of look {look} of {rules.looks}: one a look, 1 at the last")
    return shares


def _list_comparisons(keeps: Sequence[KeepRule]) -> Iterator[tuple[KeepRule, str, float]]:
    """Yield each keep with what it is compared with and the margin; one comparison is made once."""
    seen: set[tuple[str, str, float]] = set()
    for rule in keeps:
        comparisons = [(PARENT, rule.margin)]
        if rule.baseline is not None:
            comparisons.append((rule.baseline, rule.cumulative_margin or rule.margin))
        for against, margin in comparisons:
            if (rule.metric, against, margin) not in seen:
                seen.add((rule.metric, against, margin))
                yield rule, against, margin


def _choose(rules: GateRules, results: Sequence[RuleResult], attempts_used: int) -> tuple[Action, RepairName | None]:
    states = {result.state for result in results}
    if "failed" in states:
        if attempts_used < rules.num_attempts:
            return "repair", rules.on_fail[attempts_used]
        return "roll_back", None
    return ("promote" if states == {"passed"} else "hold"), None


# many parameters: all that the sentence tells
def _explain(
    action: Action,
    repair: RepairName | None,
    results: Sequence[RuleResult],
    attempts_used: int,
    num_attempts: int,
    should_draw_more: bool,
) -> str:
    """Return the decision in words: the rules that made it so, the gravest first."""
    if action == "promote":
        return f"promote: all {len(results)} comparisons pass"
    grave = ("failed",) if action in ("repair", "roll_back") else ("unmeasured", "inconclusive")
    named = [f"{_name(result)} {result.state}: {result.reason}" for state in grave for result in results
             if result.state == state]  # fmt: skip
    heads = {
        "repair": f"repair by {repair}, attempt {attempts_used + 1} of {num_attempts}",
        "roll_back": "roll back" + (f", {num_attempts} repairs tried" if num_attempts else ""),
        "hold": "hold, draw more items" if should_draw_more else "hold",
    }
    return f"{heads[action]}: " + "; ".join(named)


def _power_of(result: RuleResult) -> float | None:
    return None if result.figures is None else result.figures.power_to_pass


def _name(result: RuleResult) -> str:
    against = f" against {result.against}" if result.against and result.against != PARENT else ""
    return f"{result.kind} {result.metric}{against}"
