"""A wave that several processes draw together: who draws what, and the journals that each keeps of its share.

A wave's problems are dealt in turn. Seeds are those of problems, so that nobody's draws depend on how many draw. Each
process keeps its share's journal in a folder of its own; another number of processes reads the shares of those before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from posttrain.core.durable import storage_errors
from posttrain.core.records import Group, Problem
from posttrain.core.run_folder import StageFolder
from posttrain.rollouts.journal import RolloutJournal

GatherGroups = Callable[[Callable[[], list[Group]]], list[list[Group]]]
"""Gives what each process's action gives, by process; what stops one of them is raised by all."""


def _gather_alone(action: Callable[[], list[Group]]) -> list[list[Group]]:
    return [action()]


@dataclass(frozen=True, slots=True)
class WaveShare:
    """Which of a wave's problems this process draws, of how many: every `count`th, from `rank` on.

    Example: of a wave of 5 the second of two processes draws problems 1 and 3.
    """

    rank: int = 0
    count: int = 1
    gather: GatherGroups = _gather_alone

    def take(self, problems: Sequence[Problem]) -> Sequence[Problem]:
        """Return this process's problems."""
        return problems[self.rank :: self.count]

    def combine(self, draw: Callable[[], list[Group]]) -> list[Group]:
        """Return the groups of all processes, in the order of the wave's problems."""
        return _interleave(self.gather(draw))


class ShareJournals:
    """The journals of a stage's waves, over however many processes drew them.

    Args:
        folder: The stage's.
        rank: This process.
        count: The processes that draw now.
    """

    def __init__(self, folder: StageFolder, rank: int = 0, count: int = 1) -> None:
        self._folder = folder
        self._rank = rank
        self._count = count
        self.own = RolloutJournal(folder.find_rollouts(rank, count))

    def recall_share(self, wave: int, problems: Sequence[Problem]) -> list[Group] | None:
        """Return this process's groups of a wave that was drawn by another number of processes; None if none was."""
        known = {problem.problem_id: problem for problem in problems}
        for count in sorted(self._list_other_counts()):
            journals = [RolloutJournal(self._folder.find_rollouts(rank, count)) for rank in range(count)]
            shares = [groups for journal in journals if (groups := journal.read_groups(wave, known)) is not None]
            if len(shares) == count:
                return _interleave(shares)[self._rank :: self._count]
        return None

    def drop_strangers(self, first_wave: int, last_wave: int) -> None:
        """Remove what other numbers of processes drew for waves that are about to be drawn."""
        for count in self._list_other_counts() if self._rank == 0 else ():
            for rank in range(count):
                journal = RolloutJournal(self._folder.find_rollouts(rank, count))
                for wave in range(first_wave, last_wave + 1):
                    with storage_errors(journal.path(wave)):
                        journal.path(wave).unlink(missing_ok=True)

    def drop_before(self, wave: int) -> None:
        """Remove the journals of all waves before one: this process's, and by the first those of other numbers."""
        others = self._list_other_counts() if self._rank == 0 else set()
        for journal in [
            self.own,
            *(RolloutJournal(self._folder.find_rollouts(rank, count)) for count in others for rank in range(count)),
        ]:
            journal.drop_before(wave)

    def clear(self) -> None:
        """Remove all journals, of every process."""
        for folder in self._folder.list_rollouts():
            RolloutJournal(folder).clear()

    def _list_other_counts(self) -> set[int]:
        counts = {int(folder.name.rpartition("-")[2]) for folder in self._folder.list_rollouts()[1:]}
        return ({1} | counts) - {self._count}


def _interleave(shares: Sequence[Sequence[Group]]) -> list[Group]:
    total = sum(map(len, shares))
    return [shares[place % len(shares)][place // len(shares)] for place in range(total)]
