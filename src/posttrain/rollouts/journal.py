"""The journal of rollouts: what was drawn and what it was worth, so that a killed step is replayed and not judged anew.

One file for each batch of rollouts, appended as verdicts come: lines as in `checked_lines`, so that one which a crash
has torn ends the journal. When a batch is whole, a last line says so; it is then read
back in place of drawing, since the policy that drew it may have moved on. Of a batch that is not whole, completions are
drawn again (the same ones: a draw is a function of policy, problem and seed, and the batch is drawn as a whole);
verdicts, and what tools replied, are taken from the journal.

Arrays are stored as base64 of their bytes, so that log-probs come back bit for bit.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from posttrain.core.durable import append_lines, fsync_file, storage_errors
from posttrain.core.errors import StorageError
from posttrain.core.hashing import hash_bytes
from posttrain.core.records import Completion, Group, Observation, Outcome, Problem, Rollout
from posttrain.rollouts.checked_lines import format_line, read_lines
from posttrain.rollouts.environments import ToolReplies

_SUFFIX = ".rollouts"


@dataclass(frozen=True, slots=True)
class Begun:
    """What is known of a batch that is not whole, by the name of a completion (`name_completion`).

    `outcomes` of the rollouts that completions end, and `replies` to those that call tools.
    """

    outcomes: Mapping[str, Outcome]
    replies: Mapping[str, ToolReplies]


class RolloutJournal:
    """The journals of a stage's batches, by their number.

    Args:
        folder: Where they lie.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, batch: int) -> Path:
        """Return the file of a batch."""
        return self.folder / f"{batch:08d}{_SUFFIX}"

    def read_groups(self, batch: int, problems: Mapping[str, Problem], key: str | None = None) -> list[Group] | None:
        """Return the groups of a batch that is whole, None if it is not, or belongs to another policy or settings.

        Args:
            batch: Its number.
            problems: The problems that may stand in it, by their ids.
            key: What the batch depends on: policy, problems, seeds, settings, scorer; None takes any.

        Raises:
            StorageError: A record is whole but means nothing.
        """
        lines = list(self._read(batch))
        if not lines or "groups" not in lines[-1] or (key is not None and lines[0] != {"key": key}):
            return None
        rollouts = {(line["problem"], line["sample"]): line for line in lines[1:-1] if "sample" in line}
        try:
            return [
                Group(problems[name], tuple(_build_rollout(rollouts[name, sample]) for sample in range(count)))
                for name, count in lines[-1]["groups"]
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise self._describe(batch, f"a record of it cannot be used: {error!r}") from error

    def read_begun(self, batch: int, key: str) -> Begun:
        """Return what is known of a batch that was begun under a key.

        What another key left behind is removed, and so is a torn end. What the harness failed on has no verdict: it is
        judged again.
        """
        lines = list(self._read(batch))
        if not lines or lines[0] != {"key": key}:
            with storage_errors(self.path(batch)):
                self.folder.mkdir(parents=True, exist_ok=True)
                self.path(batch).unlink(missing_ok=True)
            self._append(batch, [{"key": key}])
            return Begun({}, {})
        with storage_errors(self.path(batch)):  # without the torn end
            self.path(batch).write_text("".join(format_line(line) + "\n" for line in lines), encoding="utf-8")
        outcomes = {line["name"]: Outcome(**line["outcome"]) for line in lines[1:] if "name" in line}
        return Begun(
            {name: outcome for name, outcome in outcomes.items() if outcome.fault != "harness"},
            {line["caller"]: ToolReplies(tuple(line["by"]), line["failed"]) for line in lines[1:] if "caller" in line},
        )

    def add(self, batch: int, rollouts: Sequence[Rollout]) -> None:
        """Append rollouts with their verdicts."""
        self._append(batch, [_describe_rollout(rollout) for rollout in rollouts])

    def add_replies(self, batch: int, caller: str, replies: ToolReplies) -> None:
        """Append what tools replied to a completion, by its name."""
        self._append(batch, [{"caller": caller, "by": list(replies.messages), "failed": replies.num_failed}])

    def finish(self, batch: int, groups: Sequence[Group]) -> None:
        """Say that a batch is whole, and make it survive the machine."""
        self._append(batch, [{"groups": [[group.problem.problem_id, len(group.rollouts)] for group in groups]}])
        with storage_errors(self.path(batch)):
            fsync_file(self.path(batch))

    def drop_before(self, batch: int) -> None:
        """Remove the journals of all batches before one."""
        if not self.folder.is_dir():
            return
        for path in sorted(self.folder.glob(f"*{_SUFFIX}")):
            if path.name < self.path(batch).name:
                with storage_errors(path):
                    path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove all journals."""
        self.drop_before(10**8)

    def _append(self, batch: int, values: Sequence[Mapping[str, Any]]) -> None:
        append_lines(self.path(batch), map(format_line, values))

    def _read(self, batch: int) -> Iterator[dict[str, Any]]:
        """Yield the records of a batch up to the first that is torn."""
        return read_lines(self.path(batch))

    def _describe(self, batch: int, found: str) -> StorageError:
        return StorageError(
            found,
            expected="rollouts as this version of posttrain writes them",
            cure="delete the file and run the same command again: the batch is drawn anew",
            place=str(self.path(batch)),
        )


def name_completion(completion: Completion) -> str:
    """Return the name by content of a completion: problem, sample, prompt and drawn tokens."""
    ids = (completion.prompt_ids.astype("<i4").tobytes(), completion.ids.astype("<i4").tobytes())
    return hash_bytes(completion.problem_id.encode(), str(completion.sample_index).encode(), *ids)


def _describe_rollout(rollout: Rollout) -> dict[str, Any]:
    return {
        "problem": rollout.problem_id,
        "sample": rollout.sample_index,
        "name": name_completion(rollout.last),
        "turns": [describe_turn(turn) for turn in rollout.turns],
        "outcome": asdict(rollout.outcome),
    }


def describe_turn(turn: Completion | Observation) -> dict[str, Any]:
    """Return a turn as JSON values."""
    if isinstance(turn, Observation):
        return {"ids": _encode(turn.ids), "by": list(turn.replies), "failed": turn.num_failed}
    return {
        "prompt_ids": _encode(turn.prompt_ids),
        "ids": _encode(turn.ids),
        "text": turn.text,
        "finish_reason": turn.finish_reason,
        "policy": turn.policy_hash,
        "seed": turn.seed,
        "sampler_logprobs": _encode(turn.sampler_logprobs),
        "drawing_logprobs": _encode(turn.drawing_logprobs),
    }


def _build_rollout(line: Mapping[str, Any]) -> Rollout:
    turns = tuple(build_turn(turn, line["problem"], line["sample"]) for turn in line["turns"])
    return Rollout(line["problem"], line["sample"], turns, Outcome(**line["outcome"]))


def build_turn(turn: Mapping[str, Any], problem: str, sample: int) -> Completion | Observation:
    """Return the turn that `describe_turn` described."""
    if "by" in turn:
        return Observation(_decode(turn["ids"], np.int32), tuple(turn["by"]), turn["failed"])
    return Completion(
        problem_id=problem,
        sample_index=sample,
        prompt_ids=_decode(turn["prompt_ids"], np.int32),
        ids=_decode(turn["ids"], np.int32),
        text=turn["text"],
        finish_reason=turn["finish_reason"],
        policy_hash=turn["policy"],
        seed=turn["seed"],
        sampler_logprobs=None if turn["sampler_logprobs"] is None else _decode(turn["sampler_logprobs"], np.float32),
        drawing_logprobs=None if turn["drawing_logprobs"] is None else _decode(turn["drawing_logprobs"], np.float32),
    )


def _encode(array: npt.NDArray[Any] | None) -> str | None:
    if array is None:
        return None
    kind = "<f4" if array.dtype.kind == "f" else "<i4"
    return base64.b64encode(np.ascontiguousarray(array, dtype=kind).tobytes()).decode()


def _decode(text: str, dtype: Any) -> npt.NDArray[Any]:
    kind = "<f4" if np.dtype(dtype).kind == "f" else "<i4"
    return np.frombuffer(base64.b64decode(text), dtype=kind).astype(dtype)
