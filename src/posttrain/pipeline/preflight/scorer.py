"""Whether a task's scorer can tell anything from anything: a value that never changes measures nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from posttrain.core.protocols import Scorer
from posttrain.core.records import MAX_HARNESS_FAULT_FRACTION, Completion, Outcome, Problem
from posttrain.evaluation.generation import score_batch
from posttrain.pipeline.preflight.findings import Figure, Finding
from posttrain.pipeline.preflight.override_names import SCORER
from posttrain.pipeline.preflight.references import Reference, build_completion

MAX_REFERENCES = 16
"""Rows whose answers are scored."""
_SAME = 1e-9
OWN, OTHERS, EMPTY, CUT, REFUSAL = "own", "other rows'", "empty", "cut", "refusing"
_REFUSAL = "I'm sorry, but I can't help with that."
Items = list[tuple[Problem, Completion]]


def check_scorer(place: str, scorer: Scorer, references: Sequence[Reference], stop_id: int) -> Finding:
    """Return whether what a scorer gives a row depends on the answer.

    Values that are equal for right and for shuffled answers may be as they should (a text without personal data is as
    good as another), so that a scorer is refused only where an empty, a cut and a refusing answer get the same too.

    Args:
        place: What the task is called in findings.
        scorer: Its scorer.
        references: Some of its rows.
        stop_id: What an empty answer consists of.
    """
    rows = [reference for reference in references if reference.answer_ids is not None][:MAX_REFERENCES]
    if not rows:
        return Finding(place, SCORER, "skipped", "no row ends with an answer that could be scored")
    values: dict[str, list[float | None]] = {}
    for kind, items in _list_answers(rows, stop_id):
        outcomes = [item.outcome for item in score_batch(items, scorer, "")]
        if kind == OWN and (failed := _describe_faults(place, scorer, outcomes)) is not None:
            return failed
        values[kind] = [outcome.value if outcome.is_counted else None for outcome in outcomes]
        if _depends_on_answer(values):
            break
    return _judge(
        place,
        scorer.name,
        {kind: [v for v in found if v is not None] for kind, found in values.items()},
        num_rows=len(rows),
        is_sound=_depends_on_answer(values),
    )


def _depends_on_answer(values: dict[str, list[float | None]]) -> bool:
    """Return whether any row gets two values, for two answers."""
    of_rows = [[value for value in row if value is not None] for row in zip(*values.values(), strict=True)]
    return any(max(row) - min(row) > _SAME for row in of_rows if row)


def _judge(place: str, name: str, values: dict[str, list[float]], *, num_rows: int, is_sound: bool) -> Finding:
    """Return the finding of a scorer's values, by the kind of answer that they were given for."""
    figures: dict[str, Figure] = {"rows": num_rows}
    figures |= {f"mean_{_KEYS[kind]}": float(np.mean(found)) for kind, found in values.items() if found}
    if is_sound:
        means = ", ".join(f"{np.mean(found):.2f} to {kind} answers" for kind, found in values.items() if found)
        return Finding(place, SCORER, "passed", f"{name} gives {means}", figures=figures)
    counted = [value for found in values.values() for value in found]
    if not counted:
        found = f"{name} applies to none of {num_rows} rows' own answers"
        expected = "a score, or a failure of the policy, for at least one of them"
        cure = "choose another scorer for the task, or rows with the columns that it reads"
    else:
        is_constant = max(counted) - min(counted) <= _SAME
        same = f"{counted[0]:g} to everything" if is_constant else "each row one value, whatever is answered"
        found = f"{name} gives {same}: {num_rows} rows' own answers, other rows', cut, empty and refusing ones"
        expected = "another value for a right answer than for a wrong or an empty one"
        cure = (
            "check the scorer's settings and the columns that it reads (is the row's answer in the form that it "
            "expects?), or choose another scorer"
        )
    return Finding(place, SCORER, "refused", found, expected, cure, figures)


_KEYS = {OWN: "own", OTHERS: "others", EMPTY: "empty", CUT: "cut", REFUSAL: "refusals"}


def _list_answers(rows: Sequence[Reference], stop_id: int) -> Iterator[tuple[str, Items]]:
    """Yield answers of each kind, for every row: those that say most about a scorer first."""
    answers = [
        (row.answer_ids if row.answer_ids is not None else np.empty(0, np.int32), row.text or "") for row in rows
    ]

    def pair(kind_answers: Sequence[tuple[np.ndarray, str]], is_cut: bool = False) -> Items:
        return [
            (row.problem, build_completion(row, ids, text, "length" if is_cut else "stop"))
            for row, (ids, text) in zip(rows, kind_answers, strict=True)
        ]

    yield OWN, pair(answers)
    if len(rows) > 1:
        yield OTHERS, pair([*answers[1:], answers[0]])
    yield EMPTY, pair([(np.asarray([stop_id], np.int32), "")] * len(rows))
    yield CUT, pair([(ids[: len(ids) // 2], text[: len(text) // 2]) for ids, text in answers], is_cut=True)
    yield REFUSAL, pair([(np.full(len(_REFUSAL.split()), stop_id, np.int32), _REFUSAL)] * len(rows))


def _describe_faults(place: str, scorer: Scorer, outcomes: Sequence[Outcome]) -> Finding | None:
    """Return the finding of a scorer that fails on the rows' own answers, None where it does not."""
    faults = [outcome for outcome in outcomes if outcome.fault == "harness"]
    if len(faults) <= MAX_HARNESS_FAULT_FRACTION * len(outcomes):
        return None
    return Finding(
        place,
        SCORER,
        "refused",
        f"the harness failed on {len(faults)} of {len(outcomes)} rows' own answers: {faults[0].why}",
        f"at most {MAX_HARNESS_FAULT_FRACTION:.0%} of them",
        "mend the scorer or the sandbox",
        {"rows": len(outcomes), "harness": len(faults)},
    )
