"""Which problems each wave of a step takes: even passes over all of them, or a curriculum by running pass rates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from posttrain.core.records import Group, Problem
from posttrain.data.mixing import RowOrder
from posttrain.rollouts.curriculum import Choice, Verdicts, choose_problems
from posttrain.rollouts.pass_rate_log import PassRateLog
from posttrain.statistics.difficulty import count_successes

if TYPE_CHECKING:
    from posttrain.stages.grpo import GrpoConfig


class ProblemChooser(Protocol):
    """Chooses the problems of waves, which are counted over all steps, `max_waves` to each."""

    def choose(self, number: int) -> Choice:
        """Return the rows of a wave's problems."""

    def see(self, step: int, groups: Sequence[Group]) -> None:
        """Take in all groups that a step has drawn."""


def build_chooser(config: GrpoConfig, problems: Sequence[Problem], folder: Path, seed: int) -> ProblemChooser:
    """Return what chooses a stage's problems.

    Args:
        config: The stage's configuration.
        problems: Its problems; rows are places in it.
        folder: Where a curriculum writes down what it has seen.
        seed: Of the order.
    """
    if config.curriculum is None:
        return EvenPasses(RowOrder([len(problems)], None, seed, config.problems_per_step))
    return Curriculum(config, problems, folder, seed)


class EvenPasses:
    """Every problem once in each pass.

    Args:
        order: Of the rows.
    """

    def __init__(self, order: RowOrder) -> None:
        self._order = order

    def choose(self, number: int) -> Choice:
        """Return the rows of a wave's problems."""
        rows = tuple(row for _, row in self._order.rows_of_step(number))
        return Choice(rows, (1.0,) * len(rows))

    def see(self, step: int, groups: Sequence[Group]) -> None:
        """Take in nothing: the order does not depend on what was seen."""


class Curriculum:
    """Problems by their running pass rates (`rollouts.curriculum`); waves of one step take none twice before all.

    Args:
        config: The stage's configuration, with a curriculum.
        problems: Its problems.
        folder: Where what was seen is written down.
        seed: Of the draws.
    """

    def __init__(self, config: GrpoConfig, problems: Sequence[Problem], folder: Path, seed: int) -> None:
        assert config.curriculum is not None  # what chooses this class has looked
        self._settings = config.curriculum
        self._config = config
        self._rows = {problem.problem_id: row for row, problem in enumerate(problems)}
        self._seed = seed
        self._log = PassRateLog(folder, len(problems), self._settings.decay)
        self._step: int | None = None
        self._choices: list[Choice] = []
        self._shares_P = self._open_P = np.empty(0)

    def choose(self, number: int) -> Choice:
        """Return the rows of a wave's problems: a function of the seed, its number, and what earlier steps have shown.

        Raises:
            StorageError: What earlier steps have shown is not in the log.
        """
        step, wave = divmod(number, self._config.max_waves)
        if step != self._step:
            self._shares_P = self._log.read_before(step).compute_shares(self._settings.floor)
            self._open_P, self._choices, self._step = self._shares_P.copy(), [], step
        while len(self._choices) <= wave:
            if not self._open_P.any():
                self._open_P = self._shares_P.copy()
            place = len(self._choices)
            found = choose_problems(self._open_P, self._config.problems_per_step, self._seed, step, place)
            self._open_P[list(found.rows)] = 0
            self._choices.append(found)
        return self._choices[wave]

    def see(self, step: int, groups: Sequence[Group]) -> None:
        """Write down what all groups of a step have shown.

        Raises:
            StorageError: The log cannot be written.
        """
        verdicts = []
        for group in groups:
            successes, tries = count_successes(group.rewards, self._config.solved_from)
            verdicts.append(Verdicts(self._rows[group.problem.problem_id], successes, tries))
        self._log.add(step, verdicts)
