"""Decides single rules: the interval against the bound, the state, and the reason in words.

A keep passes where the lower limit of the difference is above minus the margin; it fails where it does not pass and the
upper limit is below 0, so that a loss is shown; otherwise too few items were seen. An improvement passes by its test
(under Holm's correction), and fails where the upper limit is below what was claimed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from posttrain.core.errors import DataError
from posttrain.core.seeds import build_numpy_generator
from posttrain.gates.evidence import UnmeasuredError, count_unread, is_same_policy, read_pairs, read_values
from posttrain.gates.results import PARENT, Figures, GateEvidence, Items, RuleKind, RuleResult, State
from posttrain.gates.rules import CeilingRule, FloorRule, ImproveRule, KeepRule, split_metric
from posttrain.statistics.bounded_mean import (
    BoundedMean,
    compute_interval,
    p_value_above,
    summarise_bounded,
)
from posttrain.statistics.clusters import encode_clusters
from posttrain.statistics.intervals import korn_graubard_interval
from posttrain.statistics.paired import PairedTest, difference_test, score_method, summarise_difference
from posttrain.statistics.pairing import Pairs
from posttrain.statistics.power import PairedDesign, compute_chances, items_to_decide, items_to_decide_mean

LevelOf = Callable[[float], float]
"""Maps a level over all looks to that of this look."""


def judge_keep(
    rule: KeepRule, evidence: GateEvidence, *, against: str, margin: float, level: float, power: float
) -> RuleResult:
    """Return a keep's result against the parent or a baseline.

    Args:
        rule: The rule.
        evidence: The items.
        against: `parent`, or the baseline's name.
        margin: The margin that holds against it.
        level: One-sided, of this look.
        power: What the number of items that would decide is computed for.
    """
    try:
        before = _find_reference(evidence, against)
        pairs = read_pairs(rule.metric, before, evidence.stage, reference=_say_reference(against))
        sample = _summarise(pairs)
    except UnmeasuredError as error:
        return RuleResult("keep", rule.metric, against, "unmeasured", str(error))
    figures = _measure_difference(pairs, sample, bound=-margin, p_value=p_value_above(sample, -margin), level=level)
    design = _build_design(sample, figures, fail_below=0.0)
    width = sample.high
    at_margin = replace(design, change=-margin / width, discordance=max(design.discordance, margin / width))
    figures = replace(
        figures, power_to_pass=compute_chances(design).passed, power_to_catch=compute_chances(at_margin).failed
    )
    said = _say_difference(figures) + count_unread(rule.metric, evidence.stage)
    if is_same_policy(rule.metric, before, evidence.stage):
        return RuleResult("keep", rule.metric, against, "passed", f"{said}: the same policy on both sides", figures)
    if figures.low > -margin:
        return RuleResult(
            "keep", rule.metric, against, "passed", f"{said}: a loss of {margin:.3g} or more is ruled out", figures
        )
    if figures.high < 0:
        reason = f"{said}: a loss is shown, and one of {margin:.3g} or more is not ruled out"
        return RuleResult("keep", rule.metric, against, "failed", reason, figures)
    seen = _assume_change(design, min(0.0, figures.estimate / width))
    figures = replace(figures, items_to_decide=_at_least_more(items_to_decide(seen, power), figures))
    reason = f"{said}: neither a loss nor its absence is shown; {_say_items(figures)}"
    return RuleResult("keep", rule.metric, against, "inconclusive", reason, figures)


def judge_improvements(
    rules: Sequence[ImproveRule], evidence: GateEvidence, *, level: float, level_of: LevelOf, power: float
) -> list[RuleResult]:
    """Return the results of the family of claimed improvements, in order.

    In ascending p, claim i of m passes where all before it pass and its p is at most the level of this look of
    `level / (m - i + 1)`; with one look that is Holm's procedure. What is unmeasured counts as a claim.

    Args:
        rules: The claims.
        evidence: The items.
        level: One-sided, over all looks.
        level_of: Maps such a level to that of this look.
        power: What the number of items that would decide is computed for.
    """
    results: dict[int, RuleResult] = {}
    claims: list[tuple[float, int, Figures, PairedDesign]] = []
    for index, rule in enumerate(rules):
        try:
            p_value, figures, design = _measure_claim(rule, evidence, level_of(level))
            claims.append((p_value, index, figures, design))
        except UnmeasuredError as error:
            results[index] = RuleResult("improve", rule.metric, PARENT, "unmeasured", str(error))
    is_open = True
    for rank, (p_value, index, figures, design) in enumerate(sorted(claims, key=lambda claim: claim[:2])):
        claim_level = level_of(level / (len(rules) - rank))
        is_open = is_open and p_value <= claim_level
        metric = rules[index].metric
        remark = count_unread(metric, evidence.parent, "the parent") + count_unread(metric, evidence.stage)
        design = replace(design, level=claim_level)
        results[index] = _conclude_claim(rules[index], figures, design, is_shown=is_open, power=power, remark=remark)
    return [results[index] for index in sorted(results)]


def judge_level(rule: FloorRule | CeilingRule, evidence: GateEvidence, *, level: float, power: float) -> RuleResult:
    """Return the result of a floor or ceiling on the stage's own mean.

    0/1 items: Korn and Graubard's limits (Clopper and Pearson's where items are independent); others: the score
    interval of a bounded mean.
    """
    kind: RuleKind = "floor" if isinstance(rule, FloorRule) else "ceiling"
    bound = rule.at_least if isinstance(rule, FloorRule) else rule.at_most
    try:
        figures, variance = _measure_level(rule.metric, evidence.stage, bound=bound, level=level)
    except UnmeasuredError as error:
        return RuleResult(kind, rule.metric, "", "unmeasured", str(error))
    is_above, is_below = figures.low >= bound, figures.high <= bound
    said = (
        f"{figures.value:.3f} ({100 * (1 - 2 * level):.6g} % interval {figures.low:.3f} to {figures.high:.3f}, "
        f"{figures.num_items} items)"
    )
    state: State = "inconclusive"
    if is_above or is_below:
        state = "passed" if is_above == (kind == "floor") else "failed"
        side = "at least" if is_above else "at most"
        return RuleResult(kind, rule.metric, "", state, f"{said}: shown to be {side} {bound:.3g}", figures)
    needed = items_to_decide_mean(
        distance=figures.estimate - bound,
        variance=variance,
        level=level,
        power=power,
        design_effect=figures.design_effect,
    )
    figures = replace(figures, items_to_decide=_at_least_more(needed, figures))
    reason = f"{said}: on neither side of {bound:.3g} for certain; {_say_items(figures)}"
    return RuleResult(kind, rule.metric, "", state, reason, figures)


def _measure_claim(rule: ImproveRule, evidence: GateEvidence, level: float) -> tuple[float, Figures, PairedDesign]:
    """Return a claim's p-value, figures, and the design that they were seen with; its state is set with the family."""
    pairs = read_pairs(rule.metric, evidence.parent, evidence.stage, reference="the parent", may_be_unread=True)
    sample = _summarise(pairs)
    if rule.by == 0:
        # Of no difference there is an exact test; seeds by name, so that a decision can be made again.
        names = [evidence.parent, evidence.stage]
        hashes = [items[split_metric(rule.metric)[0]][0].policy_hash for items in names]
        generator = build_numpy_generator("gate", rule.metric, *hashes)
        test = difference_test(pairs, generator, alternative="greater")
    else:
        test = PairedTest(p_value_above(sample, rule.by), score_method(pairs))
    figures = _measure_difference(pairs, sample, bound=rule.by, p_value=test.p_value, level=level)
    design = _assume_change(_build_design(sample, figures, fail_below=rule.by), figures.estimate / sample.high)
    return test.p_value, replace(figures, method=test.method), design


# many parameters: one claim, what the family made of it, and what the sentence tells
def _conclude_claim(
    rule: ImproveRule, figures: Figures, design: PairedDesign, *, is_shown: bool, power: float, remark: str
) -> RuleResult:
    claim = f"a gain of more than {rule.by:.3g}" if rule.by else "a gain"
    said = f"{_say_difference(figures)}{remark}, p {figures.p_value:.2g} at level {design.level:.2g}"
    if is_shown:
        return RuleResult("improve", rule.metric, PARENT, "passed", f"{said}: {claim} is shown", figures)
    if figures.high < rule.by:
        return RuleResult("improve", rule.metric, PARENT, "failed", f"{said}: {claim} is ruled out", figures)
    figures = replace(figures, items_to_decide=_at_least_more(items_to_decide(design, power), figures))
    reason = f"{said}: {claim} is not shown; {_say_items(figures)}"
    return RuleResult("improve", rule.metric, PARENT, "inconclusive", reason, figures)


def _find_reference(evidence: GateEvidence, against: str) -> Items:
    if against == PARENT:
        return evidence.parent
    if against not in evidence.baselines:
        raise UnmeasuredError(f"the baseline {against!r} was not measured")
    return evidence.baselines[against]


def _summarise(pairs: Pairs) -> BoundedMean:
    try:
        return summarise_difference(pairs)
    except DataError as error:
        raise UnmeasuredError(error.found) from error


def _measure_difference(pairs: Pairs, sample: BoundedMean, *, bound: float, p_value: float, level: float) -> Figures:
    interval = compute_interval(sample, level=1 - 2 * level)
    return Figures(
        estimate=interval.value,
        low=interval.low,
        high=interval.high,
        bound=bound,
        value=float(pairs.after_N.mean()),
        reference=float(pairs.before_N.mean()),
        p_value=p_value,
        level=level,
        num_items=len(pairs),
        num_clusters=pairs.num_clusters,
        num_better=pairs.num_better,
        num_worse=pairs.num_worse,
        design_effect=sample.design_effect,
        method=score_method(pairs),
        left_out=dict(pairs.left_out),
    )


def _measure_level(metric: str, items: Items, *, bound: float, level: float) -> tuple[Figures, float]:
    """Return the figures of the stage's own mean, and the variance of an item."""
    read = read_values(metric, items)
    values, codes = read.values_N, encode_clusters(read.clusters_N, read.values_N.size)
    is_binary = bool(np.isin(values, (0.0, 1.0)).all())
    low, high = min(0.0, float(values.min())), max(1.0, float(values.max()))
    try:
        sample = summarise_bounded(values, codes, low=low, high=high)
        interval = (
            korn_graubard_interval(values, codes, level=1 - 2 * level)
            if is_binary
            else compute_interval(sample, level=1 - 2 * level)
        )
    except DataError as error:
        raise UnmeasuredError(error.found) from error
    figures = Figures(
        estimate=interval.value,
        low=interval.low,
        high=interval.high,
        bound=bound,
        value=interval.value,
        reference=None,
        p_value=None,
        level=level,
        num_items=int(values.size),
        num_clusters=sample.num_clusters,
        num_better=0,
        num_worse=0,
        design_effect=sample.design_effect,
        method="korn_graubard" if is_binary else "bounded_score",
        left_out=dict(read.left_out),
    )
    return figures, float(values.var())


def _build_design(sample: BoundedMean, figures: Figures, *, fail_below: float) -> PairedDesign:
    """Return the design of a rule over these pairs where nothing has changed, in units of the values' range.

    One pair that differs is added, and one that does not: no share is known to be 0.
    """
    width = sample.high
    num_pairs = figures.num_items
    return PairedDesign(
        figures.bound / width,
        fail_below / width,
        num_pairs,
        (sample.mean_square / width**2 * num_pairs + 1) / (num_pairs + 2),
        level=figures.level,
        design_effect=sample.design_effect,
        items_per_cluster=num_pairs / figures.num_clusters,
    )


def _assume_change(design: PairedDesign, change: float) -> PairedDesign:
    return replace(design, change=change, discordance=max(design.discordance, abs(change)))


def _at_least_more(needed: int | None, figures: Figures) -> int | None:
    return None if needed is None else max(needed, figures.num_items + 1)


def _say_reference(against: str) -> str:
    return "the parent" if against == PARENT else f"the baseline {against!r}"


def _say_difference(figures: Figures) -> str:
    return (
        f"{figures.reference:.3f} to {figures.value:.3f}, a difference of {figures.estimate:+.3f} "
        f"({100 * (1 - 2 * figures.level):.6g} % interval {figures.low:+.3f} to {figures.high:+.3f}, "
        f"{figures.num_items} pairs)"
    )


def _say_items(figures: Figures) -> str:
    if figures.items_to_decide is None:
        return "not even a million items would decide"
    return f"about {figures.items_to_decide} items would decide"
