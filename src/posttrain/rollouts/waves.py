"""Waves of problems: drawn, judged, written into the journal, and read back from it after a kill."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from posttrain.core.errors import StorageError
from posttrain.core.hashing import hash_json
from posttrain.core.records import Completion, Group, Outcome, Problem
from posttrain.core.seeds import derive_seed
from posttrain.rollouts.environments import ToolReplies
from posttrain.rollouts.groups import Drawing, Judged, check_faults, draw_groups
from posttrain.rollouts.journal import RolloutJournal, name_completion
from posttrain.rollouts.shares import WaveShare


@dataclass(frozen=True, slots=True)
class WaveDrawer:
    """Draws waves, by their number from 0; a wave that was drawn before is read from the journal.

    Args:
        problems_of: The problems of a wave.
        drawing: Who draws and judges.
        journal: Where it is written down.
        scorer_hash: The name by content of who judges.
        seed: What draws start from.
        share: Which part of a wave this process draws; the journal holds that part.
        recall_share: Gives this process's part of a wave that another number of processes drew.
    """

    problems_of: Callable[[int], Sequence[Problem]]
    drawing: Drawing
    journal: RolloutJournal
    scorer_hash: str
    seed: int
    share: WaveShare = field(default_factory=WaveShare)
    recall_share: Callable[[int, Sequence[Problem]], list[Group] | None] | None = None

    def draw(self, number: int, policy_hash: str) -> list[Group]:
        """Return the groups of a wave under a policy, which the sampler holds.

        Raises:
            RefusedError: The harness failed on too many completions.
            StorageError: The journal cannot be read or written.
        """
        found: list[Group] = []
        is_known = False

        def draw_share() -> list[Group]:
            nonlocal found, is_known
            found, is_known = self._draw_share(number, policy_hash)
            return found

        def finish() -> list[Group]:
            if not is_known:
                self.journal.finish(number, found)
            return []

        groups = self.share.combine(draw_share)
        check_faults([rollout.outcome for group in groups for rollout in group.rollouts])
        self.share.gather(finish)
        return groups

    def _draw_share(self, number: int, policy_hash: str) -> tuple[list[Group], bool]:
        """Return this process's groups of a wave, and whether its journal had them."""
        problems = self.share.take(self.problems_of(number))
        seeds = self._derive_seeds(problems, number)
        key = self._make_key(problems, seeds, policy_hash)
        known = self.journal.read_groups(number, {problem.problem_id: problem for problem in problems}, key)
        if known is not None:
            return known, True
        begun = self.journal.read_begun(number, key)

        def find_known(completion: Completion) -> Outcome | None:
            return begun.outcomes.get(name_completion(completion))

        def write_down(judged: Sequence[Judged]) -> None:
            rollouts = [
                attempt.conclude(outcome)
                for attempt, outcome in judged
                if name_completion(attempt.last) not in begun.outcomes
            ]
            if rollouts:
                self.journal.add(number, rollouts)

        book = JournalBook(self.journal, number, begun.replies)
        groups = draw_groups(
            problems, seeds, self.drawing, find_known=find_known, on_judged=write_down, book=book, is_whole=False
        )
        return groups, False

    def recall(self, number: int) -> list[Group]:
        """Return the groups of a wave that must be in the journal, because the policy that drew it has moved on.

        Raises:
            StorageError: It is not there.
        """
        return self.share.combine(lambda: self._recall_share(number))

    def _recall_share(self, number: int) -> list[Group]:
        problems = self.problems_of(number)
        own = {problem.problem_id: problem for problem in self.share.take(problems)}
        known = self.journal.read_groups(number, own)
        if known is None and self.recall_share is not None:
            known = self.recall_share(number, problems)
        if known is None:
            raise StorageError(
                "the rollouts of the step that was under way are missing",
                expected="the journal that was written when they were drawn",
                cure="restore the file, or delete the stage's newest checkpoint, so that the step is drawn again",
                place=str(self.journal.path(number)),
            )
        return known

    def _derive_seeds(self, problems: Sequence[Problem], number: int) -> list[int]:
        return [derive_seed(self.seed, "rollout", number, problem.problem_id) for problem in problems]

    def _make_key(self, problems: Sequence[Problem], seeds: Sequence[int], policy_hash: str) -> str:
        settings = self.drawing.settings
        how: list[Any] = [
            settings.max_new_tokens,
            settings.temperature,
            settings.num_samples,
            list(settings.stop_strings),
        ]
        if self.drawing.environment is not None:
            how.append(self.drawing.environment.content_hash)
        return hash_json(
            [policy_hash, [problem.problem_id for problem in problems], list(seeds), how, self.scorer_hash]
        )


@dataclass(frozen=True, slots=True)
class JournalBook:
    """What tools replied in a wave, kept in its journal (`attempts.ReplyBook`).

    Args:
        journal: Where it is written down.
        number: The wave.
        known: Replies from before a kill, by the name of the completion that called.
    """

    journal: RolloutJournal
    number: int
    known: Mapping[str, ToolReplies]

    def find(self, completion: Completion) -> ToolReplies | None:
        """Return what was replied before a kill, so that no tool does its work twice."""
        return self.known.get(name_completion(completion))

    def keep(self, completion: Completion, replies: ToolReplies) -> None:
        """Write replies down, unless they are there."""
        name = name_completion(completion)
        if name not in self.known:
            self.journal.add_replies(self.number, name, replies)
