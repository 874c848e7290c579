"""What the rollouts of a step say, by metric key: rewards, lengths, difficulty, and how problems are weighed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from posttrain.core import metrics as keys
from posttrain.core.records import Group, Observation, Rollout
from posttrain.rollouts.dynamic import Gathered, Staleness
from posttrain.statistics.difficulty import DrawnGroup, compute_weights, count_successes, count_tokens, find_band
from posttrain.statistics.reward_groups import compute_group_figures

if TYPE_CHECKING:
    from posttrain.stages.grpo import GrpoConfig


@dataclass(frozen=True, slots=True)
class StepFigures:
    """What a step's rollouts say, by metric key; `reward` is the mean reward, None where nothing is trained on.

    What is said of rewards and completions is then left out, so that no 0 is read as one.
    """

    reward: float | None
    values: dict[str, float]


def describe_step(gathered: Gathered, effective_problems: float, config: GrpoConfig) -> StepFigures:
    """Return what the rollouts of a step say.

    Args:
        gathered: What was drawn, and what of it is trained on.
        effective_problems: The share of the problems that the choice of the step's first wave leaves in effect.
        config: The stage's configuration.
    """
    groups = gathered.groups
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    rewards = [group.rewards for group in groups]
    clipped = [[rollout.is_cut for rollout in group.rollouts] for group in groups]
    found = compute_group_figures(rewards, clipped)
    known = [reward for group in rewards for reward in group if reward is not None]
    values = {
        keys.NUM_WAVES: float(len(gathered.waves)),
        keys.LEFT_OUT_FRACTION: gathered.left_out_fraction,
        keys.EFFECTIVE_PROBLEMS: effective_problems,
    }
    if gathered.num_drawn:
        values[keys.INFORMATIVE_FRACTION] = gathered.informative_fraction
    if known:
        values |= {
            keys.REWARD: found.mean,
            keys.REWARD_STD: float(np.std(known)),
            keys.FRAC_REWARD_ZERO_STD: 1 - found.informative_fraction,
            keys.COMPLETION_LENGTH: float(np.mean([rollout.num_drawn for rollout in rollouts])),
            keys.CLIPPED_RATIO: found.clipped_fraction,
        }
    values |= _describe_difficulty(gathered, config.solved_from)
    if config.environment is not None:
        values |= _describe_tools(rollouts)
    if gathered.staleness is not None:
        values |= _describe_staleness(gathered.staleness)
    return StepFigures(found.mean if known else None, values)


def _describe_difficulty(gathered: Gathered, solved_from: float) -> dict[str, float]:
    kept = {id(group) for group in gathered.groups}
    drawn = [
        _describe_group(group, id(group) in kept, weight, solved_from)
        for group, weight in zip(gathered.drawn, gathered.weights or (1.0,) * gathered.num_drawn, strict=True)
    ]
    tokens = {keys.TOKENS_BY_DIFFICULTY[band]: float(count) for band, count in count_tokens(drawn).items()}
    weights = {keys.WEIGHT_BY_DIFFICULTY[band]: weight for band, weight in compute_weights(drawn).items()}
    return tokens | weights


def _describe_group(group: Group, is_trained_on: bool, weight: float, solved_from: float) -> DrawnGroup:
    band = find_band(*count_successes(group.rewards, solved_from))
    return DrawnGroup(band, sum(rollout.num_drawn for rollout in group.rollouts), is_trained_on, weight)


def _describe_tools(rollouts: Sequence[Rollout]) -> dict[str, float]:
    seen = [[turn for turn in rollout.turns if isinstance(turn, Observation)] for rollout in rollouts]
    num_replies = sum(len(turn.replies) for turns in seen for turn in turns)
    return {
        keys.NUM_TURNS: float(np.mean([1 + len(turns) for turns in seen])) if seen else 0.0,
        keys.TOOL_ERRORS: sum(turn.num_failed for turns in seen for turn in turns) / max(1, num_replies),
    }


def _describe_staleness(staleness: Staleness) -> dict[str, float]:
    return {
        keys.STALE_FRACTION: staleness.stale_fraction,
        keys.TOKEN_AGE: staleness.mean_age,
        keys.SET_ASIDE: float(staleness.num_set_aside),
    }
