"""Groups drawn before a stage that samples: dead groups, one reward for everything, and completions that are cut."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from posttrain.core.errors import RecipeError, RefusedError
from posttrain.core.progress import SilentProgress
from posttrain.core.records import Completion, Outcome, Problem
from posttrain.core.sampling import PolicyVersion, SamplingSettings
from posttrain.data.sources import DataSource
from posttrain.pipeline.preflight.rollouts import check_rollouts
from posttrain.stages.rollouts import RolloutSettings
from tests.pipeline.tiny_runs import Finished, Workshop, sft

GROUP = 4


class Sampler:
    """Draws texts that say which problem and which sample they are; a share of them is cut."""

    policy_hash = "p"

    def __init__(self, cut_every: int = 0) -> None:
        self.cut_every = cut_every
        self.asked = 0

    def sample(
        self, problems: Sequence[Problem], settings: SamplingSettings, seeds: Sequence[int]
    ) -> Iterator[tuple[int, Completion]]:
        """Yield completions, last problem first, as they might finish."""
        none = np.zeros(1, np.int32)
        for index in reversed(range(len(problems))):
            for number in range(settings.num_samples):
                self.asked += 1
                is_cut = self.cut_every and self.asked % self.cut_every == 0
                name = problems[index].problem_id
                reason: Any = "length" if is_cut else "stop"
                yield index, Completion(name, number, none, none, f"{name}/{number}", reason, "p", seeds[index])

    def publish(self, policy: PolicyVersion) -> str:
        """Take nothing over."""
        return policy.hash

    def close(self) -> None:
        """Hold nothing."""


class Scorer:
    """Rewards a completion by its problem's number and its own."""

    name = "made_up"

    def __init__(self, reward: Any) -> None:
        self.reward = reward

    def score(self, items: Sequence[tuple[Problem, Completion]]) -> list[Outcome]:
        """Return the rewards; None is a failure of the harness."""
        values = [self.reward(int(problem.problem_id), completion.sample_index) for problem, completion in items]
        return [
            Outcome("errored", 0.0, why="no judge", fault="harness") if value is None else Outcome("scored", value)
            for value in values
        ]


def probe(reward: Any, *, num_groups: int = 24, cut_every: int = 0) -> tuple[Any, Any, Sampler]:
    sampling = SamplingSettings(max_new_tokens=16, temperature=1.0, num_samples=GROUP)
    settings = RolloutSettings(DataSource(source="rows.jsonl"), "exact_match", sampling, num_groups)
    problems = [Problem(str(number), [{"role": "user", "content": "?"}]) for number in range(num_groups)]
    sampler = Sampler(cut_every)
    rewards, cuts = check_rollouts("rl", settings, problems, sampler, Scorer(reward), seed=1, progress=SilentProgress())
    assert (rewards.name, cuts.name) == ("rollouts", "length_caps")
    return rewards, cuts, sampler


def test_groups_that_differ_pass_and_no_more_are_drawn_than_it_takes_to_see_it() -> None:
    rewards, cuts, sampler = probe(lambda problem, sample: float(sample % 2), num_groups=40)
    assert (rewards.status, cuts.status) == ("passed", "passed")
    assert sampler.asked < 40 * GROUP and rewards.figures["informative_fraction"] == 1.0
    assert rewards.figures["completions"] == sampler.asked


def test_dead_groups_are_refused_and_the_cure_speaks_of_the_problems() -> None:
    """One of 24 groups differs; in the others all samples get what their problem gets, 0 or 1."""
    rewards, _, sampler = probe(lambda problem, sample: float(sample % 2 if problem == 3 else problem % 2))
    assert rewards.status == "refused" and "in 1 of 24 groups (4%)" in rewards.found
    assert "neither always nor never" in rewards.cure and sampler.asked == 24 * GROUP
    assert rewards.figures["reward_lowest"] == 0.0 and rewards.figures["reward_highest"] == 1.0


def test_a_tenth_of_the_groups_is_enough() -> None:
    rewards, _, _ = probe(lambda problem, sample: float(sample % 2 if problem < 2 else problem % 2), num_groups=20)
    assert rewards.status == "passed"


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_one_reward_for_everything_is_refused_and_the_cure_speaks_of_the_scorer(value: float) -> None:
    rewards, _, _ = probe(lambda problem, sample: value)
    assert rewards.status == "refused" and f"rewards are {value:g}" in rewards.found
    assert "posttrain verify" in rewards.cure and "demonstrations" in rewards.cure


def test_completions_that_are_cut_are_refused_above_a_fifth_with_a_larger_cap() -> None:
    fair = lambda problem, sample: float(sample % 2)  # noqa: E731 (one line says it all)
    assert probe(fair, cut_every=6)[1].status == "passed"
    rewards, cuts, _ = probe(fair, cut_every=3)
    assert rewards.status == "passed" and cuts.status == "refused"
    assert "max_new_tokens: 32" in cuts.cure and cuts.figures["clipped_fraction"] == pytest.approx(1 / 3, abs=0.02)


def test_a_harness_that_fails_is_named_and_never_a_reward() -> None:
    rewards, _, _ = probe(lambda problem, sample: None if problem % 8 == 0 else float(sample % 2))
    assert rewards.status == "refused" and "no judge" in rewards.found
    nothing, _, _ = probe(lambda problem, sample: None)
    assert nothing.status == "refused" and nothing.figures["informative_groups"] == 0


# ---- a stage of the user's own, in a run

STAGE = """\
from typing import Any

from pydantic import Field

from posttrain.core.config import Config as Base
from posttrain.core.sampling import SamplingSettings
from posttrain.data.sources import DataSource
from posttrain.stages.rollouts import RolloutSettings


class Config(Base):
    problems: dict[str, Any]
    scorer: str = "own.py:first_letter"
    max_new_tokens: int = 4
    num_groups: int = Field(8, ge=1)

    def describe_rollouts(self):
        return RolloutSettings(
            problems=DataSource.model_validate(self.problems),
            scorer=self.scorer,
            sampling=SamplingSettings(max_new_tokens=self.max_new_tokens, temperature=1.0, num_samples=4),
            num_groups=self.num_groups,
        )


def rl(config, inputs, parts, context):
    return {"policy": parts.publish(parts.policy)}


def first_letter(completions, **columns):
    return [float(text[:1] > "h") for text in completions]


def longest(completions, **columns):
    return [0.0 for text in completions]
"""


def rl(**changes: Any) -> dict[str, Any]:
    """A stage that samples and trains nothing."""
    return {"name": "rl", "type": "own.py:rl", "problems": {"source": "held_out.jsonl"}, **changes}


def findings(done: Finished) -> dict[str, Any]:
    return {f["name"]: f for f in done.record["preflight"] if f["stage"] == "rl"}


def recorded(workshop: Workshop) -> dict[str, Any]:
    record = json.loads((workshop.folder / "run" / "run.json").read_text())
    return {f["name"]: f for f in record["preflight"] if f["stage"] == "rl"}


@pytest.fixture
def sampling(workshop: Workshop) -> Workshop:
    """A workshop with a stage that samples."""
    (workshop.folder / "own.py").write_text(STAGE)
    return workshop


def test_a_users_stage_is_probed_with_the_policy_that_it_starts_from(sampling: Workshop) -> None:
    """The base never stops within four tokens; after some training on short answers it does."""
    with pytest.raises(RefusedError) as refused:
        sampling.run(rl())
    found = recorded(sampling)
    assert found["rollouts"]["status"] == "passed" and found["length_caps"]["status"] == "refused"
    assert refused.value.place == "rl: length_caps" and "max_new_tokens: 8" in refused.value.cure
    taught = sft(steps=150, learning_rate=1e-2, checkpoint_every_steps=100)
    done = sampling.run(taught, rl(), override=["rl:rollouts"])
    found = findings(done)
    assert done.statuses == ["finished", "finished"] and found["length_caps"]["status"] == "passed"
    assert found["length_caps"]["figures"]["clipped_fraction"] < 0.2
    assert found["rollouts"]["figures"]["completions"] >= 8
    again = sampling.run(taught, rl())
    assert again.statuses == ["cached", "cached"] and findings(again) == found


def test_a_reward_that_never_changes_is_refused_before_the_stage_runs(sampling: Workshop) -> None:
    dead = rl(scorer="own.py:longest")
    with pytest.raises(RefusedError, match="rewards are 0") as refused:
        sampling.run(dead, override=["rl:length_caps"])
    assert refused.value.place == "rl: rollouts" and "--override rl:rollouts" in refused.value.cure
    done = sampling.run(dead, override=["rollouts", "length_caps"])
    assert {name: f["status"] for name, f in findings(done).items()} == dict.fromkeys(
        ("rollouts", "length_caps"), "overridden"
    )


def test_equal_seeds_draw_the_same_groups(sampling: Workshop) -> None:
    one, two = (sampling.run(rl(), override=["rollouts", "length_caps"], into=into) for into in ("one", "two"))
    assert findings(one) == findings(two)
    other = sampling.run(rl(), override=["rollouts", "length_caps"], into="three", seed=18)
    assert findings(other)["rollouts"]["figures"] != findings(one)["rollouts"]["figures"]


@pytest.mark.parametrize(
    ("before", "after", "word"),
    [
        ("return RolloutSettings(", "return dict(", "describe_rollouts returned"),
        ("num_samples=4", "num_samples=1", "num_samples of at least 2"),
        ("return RolloutSettings(", "raise KeyError('none')\n        return RolloutSettings(", "raised KeyError"),
    ],
)
def test_a_description_that_cannot_be_used_is_named_as_the_users(
    sampling: Workshop, before: str, after: str, word: str
) -> None:
    assert before in STAGE
    (sampling.folder / "own.py").write_text(STAGE.replace(before, after, 1))
    with pytest.raises(RecipeError, match=word):
        sampling.run(rl())
