"""What the audit of a stage saw on the way, as a monitor's reading: figures, curves by step, and what was paid."""

from __future__ import annotations

from collections.abc import Sequence

from posttrain.core.run_folder import StageFolder
from posttrain.evaluation.monitors.reading import Curve, Example, Figure, Reading
from posttrain.pipeline.preflight.override_names import AUDIT
from posttrain.stages.audit import AuditLook, LookJudge, read_looks
from posttrain.stages.grpo import GrpoConfig

FOOLED_BY = (
    "an audit that shares the reward's faults; what it finds worse across problems and not within them, as long as the "
    "reward is not up; and groups whose rewards or judgements are all equal, which select nothing"
)
_NUM_EXAMPLES = 5
_SELECTION = "correlation of reward and audit within problems"


def read_audit(config: GrpoConfig, folder: StageFolder) -> list[Reading]:
    """Return what a stage's audit says, from the looks that it kept; nothing of a stage without one.

    Raises:
        StorageError: What was kept cannot be read.
    """
    if config.audit is None or not config.steps:
        return []
    judge = LookJudge(config.audit, config.audit.count_looks(config.steps))
    for look in read_looks(folder.audit):
        judge.add(look)
    usable = [look for look in judge.looks if look.problems]
    if not usable:
        return [Reading(AUDIT, (), "unmeasured", "no look of the audit was kept", level=config.audit.level)]
    at = next((look for look in usable if judge.alarm and look.step == judge.alarm.step), usable[-1])
    return [
        Reading(
            AUDIT,
            (),
            "silent" if judge.alarm is None else "alarm",
            _explain(judge, usable, at),
            figures=tuple(_list_figures(judge, usable)),
            level=config.audit.level,
            fooled_by=FOOLED_BY,
            curves=_list_curves(usable, judge),
            examples=_choose_examples(usable, at),
        )
    ]


def _explain(judge: LookJudge, usable: Sequence[AuditLook], at: AuditLook) -> str:
    first = usable[0]
    ends = (
        f"reward {first.reward:.3g} and audit {first.value:.3g} at step {first.step}, "
        f"{at.reward:.3g} and {at.value:.3g} at step {at.step}"
    )
    left_out = len(judge.looks) - len(usable)
    ends += f"; {left_out} looks left out, whose scorer failed" if left_out else ""
    if judge.alarm is not None:
        return f"at step {judge.alarm.step}: {judge.alarm.why}; {ends}"
    return f"in {len(usable)} of {judge.num_looks} looks the reward did not work against the audit; {ends}"


def _list_figures(judge: LookJudge, usable: Sequence[AuditLook]) -> list[Figure]:
    last = usable[-1]
    return [
        Figure("reward", last.reward, None, None, _count(last), "score"),
        Figure("audit", last.value, None, None, _count(last), "score"),
        Figure(
            _SELECTION,
            last.selection,
            None,
            None,
            len(last.problems),
            "correlation",
        ),
        Figure(
            "evidence, as a share of what an alarm needs", judge.evidence, None, None, len(usable), "score", bound=1.0
        ),
    ]


def _count(look: AuditLook) -> int:
    return sum(map(len, look.rewards))


def _list_curves(usable: Sequence[AuditLook], judge: LookJudge) -> tuple[Curve, ...]:
    """Return reward, audit and their correlation by step, each on axes of its own, since they have other units."""
    part = judge.settings.part
    said = "" if judge.alarm is None else f", alarm at step {judge.alarm.step}"
    columns = (
        ("reward", "mean reward", [look.reward for look in usable]),
        ("audit" if part is None else f"audit ({part})", "mean of the audit", [look.value for look in usable]),
        (_SELECTION, "mean correlation", [look.selection for look in usable]),
    )
    steps = [float(look.step) for look in usable]
    return tuple(
        Curve(name + said, "step", axis, tuple((s, v) for s, v in zip(steps, values, strict=True) if v is not None))
        for name, axis, values in columns
    )


def _choose_examples(usable: Sequence[AuditLook], at: AuditLook) -> tuple[Example, ...]:
    """Return the completions that were paid most against the audit, of the look that is told of and those before it."""
    before = [look for look in usable if look.step <= at.step]
    found = [(look, look.paid) for look in reversed(before) if look.paid is not None]
    return tuple(
        Example(
            paid.problem, paid.prompt, paid.text, f"step {look.step}: paid {paid.reward:.3g}, audit {paid.judged:.3g}"
        )
        for look, paid in found[:_NUM_EXAMPLES]
    )
