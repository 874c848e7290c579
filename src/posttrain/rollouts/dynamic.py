"""Dynamic sampling: drawing on until enough groups tell completions apart, by whole waves and within a bound.

A group whose rewards are all equal has no gradient. DAPO draws further problems until a step has as many groups as it
wants that are not so. Here a wave of problems is drawn as a whole and looked at in the order of its problems, so that
neither what ends early nor what is short is favoured; what a wave has beyond the number wanted is left out from its
end. The step's problems are then no even sample of all: those that the policy solves always or never count for
nothing, and `statistics.difficulty` says with what weight the others do.

Source: Yu et al. 2025, "DAPO" (arXiv 2503.14476), section 3.2. Known difference: DAPO keeps what arrives first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from posttrain.core.records import Group


@dataclass(frozen=True, slots=True)
class Staleness:
    """Of tokens that are trained on: how many were drawn by which earlier policy, in steps before this one.

    `num_tokens_by_age` has the tokens of this step first. `num_set_aside` groups go on in the next step.

    Example: `(90, 10)`: of 100 tokens ten were drawn one step ago.
    """

    num_tokens_by_age: tuple[int, ...]
    num_set_aside: int

    @property
    def stale_fraction(self) -> float:
        """The share of tokens that an earlier policy drew."""
        total = sum(self.num_tokens_by_age)
        return (total - self.num_tokens_by_age[0]) / total if total else 0.0

    @property
    def mean_age(self) -> float:
        """How many steps ago a token was drawn, on average."""
        total = sum(self.num_tokens_by_age)
        return sum(age * count for age, count in enumerate(self.num_tokens_by_age)) / total if total else 0.0


@dataclass(frozen=True, slots=True)
class Gathered:
    """What was drawn for a step: `waves` of groups, of which `groups` are trained on.

    `weights` say of each drawn group how much likelier its problem was to be drawn than under even chances, 1 where
    none are given; `staleness` is known where rollouts go on over several steps (`rollouts.partial`).

    Example: 8 wanted, waves of 8 with 5 and 6 informative groups: `num_drawn=16, num_informative=11, num_left_out=3`,
    and `groups` are the first 8 informative ones.
    """

    groups: tuple[Group, ...]
    waves: tuple[tuple[Group, ...], ...]
    weights: tuple[float, ...] = ()
    staleness: Staleness | None = None

    @property
    def drawn(self) -> tuple[Group, ...]:
        """All groups that were drawn, in order."""
        return tuple(group for wave in self.waves for group in wave)

    @property
    def num_drawn(self) -> int:
        """Groups that were drawn."""
        return sum(map(len, self.waves))

    @property
    def num_informative(self) -> int:
        """Groups that were drawn and tell completions apart."""
        return sum(group.is_informative for group in self.drawn)

    @property
    def num_left_out(self) -> int:
        """Informative groups that were drawn beyond the number wanted."""
        return self.num_informative - sum(group.is_informative for group in self.groups)

    @property
    def informative_fraction(self) -> float:
        """The share of drawn groups whose rewards differ."""
        return self.num_informative / max(1, self.num_drawn)

    @property
    def left_out_fraction(self) -> float:
        """The share of drawn groups that are not trained on."""
        return (self.num_drawn - len(self.groups)) / max(1, self.num_drawn)


def gather_groups(draw_wave: Callable[[int], list[Group]], num_wanted: int, max_waves: int) -> Gathered:
    """Return the groups of a step.

    Args:
        draw_wave: Draws the wave of this number, from 0.
        num_wanted: Groups of a step.
        max_waves: Waves at most; with one, nothing is drawn again and every group is kept.
    """
    if max_waves == 1:
        groups = tuple(draw_wave(0))
        return Gathered(groups, (groups,))
    waves: list[tuple[Group, ...]] = []
    kept: list[Group] = []
    while len(waves) < max_waves and len(kept) < num_wanted:
        waves.append(tuple(draw_wave(len(waves))))
        kept += [group for group in waves[-1] if group.is_informative]
    return Gathered(tuple(kept[:num_wanted]), tuple(waves))
