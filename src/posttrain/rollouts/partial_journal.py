"""The journal of rollouts that go on over several steps: one file a step, with all that is under way in it.

Lines as in `checked_lines`: the key, verdicts as they come by the name of the whole completion, and when the step is
drawn a line for each group that was under way, ended or set aside, and their number. A step is read back whole or not
at all; of one that is not whole the verdicts are taken, and the same tokens drawn again. Groups that were set aside
stand in each file whole, so that a step needs no file but that of the one before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from posttrain.core.durable import append_lines, fsync_file, storage_errors, write_lines
from posttrain.core.errors import StorageError
from posttrain.core.records import Completion, Outcome, Problem
from posttrain.rollouts.checked_lines import format_line, read_lines
from posttrain.rollouts.journal import RolloutJournal, build_turn, describe_turn


@dataclass(frozen=True, slots=True)
class OpenGroup:
    """A group that is under way: what was drawn of each rollout so far, and what those that have ended are worth.

    `started` is the step that began it: segment k of a rollout was drawn in step started + k. `weight` is how much
    likelier its problem was drawn than under even chances. An outcome is None while its rollout goes on.

    Example: two rollouts in their second step, the first of which ended in one: segments of 1 and 2 completions,
    outcomes `(Outcome("scored", 1.0), None)`.
    """

    problem: Problem
    started: int
    weight: float
    segments: tuple[tuple[Completion, ...], ...]
    outcomes: tuple[Outcome | None, ...]

    @property
    def has_ended(self) -> bool:
        """Whether all its rollouts have ended."""
        return all(outcome is not None for outcome in self.outcomes)


class PartialJournal:
    """The journals of a stage's steps, by their number.

    Args:
        folder: Where they lie.
        problems: The problems that may stand in them, by their ids.
    """

    def __init__(self, folder: Path, problems: Mapping[str, Problem]) -> None:
        self._files = RolloutJournal(folder)
        self._problems = problems

    def path(self, step: int) -> Path:
        """Return the file of a step."""
        return self._files.path(step)

    def read(self, step: int, key: str | None = None) -> list[OpenGroup] | None:
        """Return all groups that were under way in a step, None if it is not whole or stands under another key.

        Raises:
            StorageError: A record is whole but means nothing, or the file cannot be read.
        """
        lines = list(read_lines(self.path(step)))
        if not lines or "groups" not in lines[-1] or (key is not None and lines[0] != {"key": key}):
            return None
        try:
            groups = [self._build_group(line) for line in lines if "rollouts" in line]
            if len(groups) != lines[-1]["groups"]:
                raise ValueError(f"{len(groups)} groups")
        except (KeyError, TypeError, ValueError) as error:
            raise StorageError(
                f"a record of it cannot be used: {error!r}",
                expected="rollouts as this version of posttrain writes them",
                cure="delete the stage's folder and run the same command again",
                place=str(self.path(step)),
            ) from error
        return groups

    def begin(self, step: int, key: str) -> dict[str, Outcome]:
        """Return the verdicts of a step that was begun under a key, by the name of the whole completion.

        What another key left behind is removed, and so is a torn end. What the harness failed on has no verdict: it is
        judged again.
        """
        lines = list(read_lines(self.path(step)))
        if not lines or lines[0] != {"key": key}:
            lines = [{"key": key}]
        lines = [line for line in lines if "key" in line or "name" in line]
        write_lines(self.path(step), map(format_line, lines))
        outcomes = {line["name"]: Outcome(**line["outcome"]) for line in lines if "name" in line}
        return {name: outcome for name, outcome in outcomes.items() if outcome.fault != "harness"}

    def add(self, step: int, verdicts: Sequence[tuple[str, Outcome]]) -> None:
        """Append verdicts by the name of the whole completion."""
        lines = [{"name": name, "outcome": asdict(outcome)} for name, outcome in verdicts]
        append_lines(self.path(step), map(format_line, lines))

    def finish(self, step: int, groups: Sequence[OpenGroup]) -> None:
        """Write down all groups that are under way, and make them survive the machine."""
        lines = [*(_describe_group(group) for group in groups), {"groups": len(groups)}]
        append_lines(self.path(step), map(format_line, lines))
        with storage_errors(self.path(step)):
            fsync_file(self.path(step))

    def drop_before(self, step: int) -> None:
        """Remove what no step from this one on reads: each reads the journal of the step before it."""
        self._files.drop_before(step - 1)

    def _build_group(self, line: Mapping[str, Any]) -> OpenGroup:
        name, rollouts = line["problem"], line["rollouts"]
        return OpenGroup(
            self._problems[name],
            line["started"],
            line["weight"],
            tuple(
                tuple(_build_segment(turn, name, sample) for turn in rollout["turns"])
                for sample, rollout in enumerate(rollouts)
            ),
            tuple(None if rollout["outcome"] is None else Outcome(**rollout["outcome"]) for rollout in rollouts),
        )


def _describe_group(group: OpenGroup) -> dict[str, Any]:
    rollouts = [
        {"turns": [describe_turn(turn) for turn in turns], "outcome": None if outcome is None else asdict(outcome)}
        for turns, outcome in zip(group.segments, group.outcomes, strict=True)
    ]
    return {
        "problem": group.problem.problem_id,
        "started": group.started,
        "weight": group.weight,
        "rollouts": rollouts,
    }


def _build_segment(turn: Mapping[str, Any], problem: str, sample: int) -> Completion:
    segment = build_turn(turn, problem, sample)
    if not isinstance(segment, Completion):
        raise ValueError("an observation")
    return segment
