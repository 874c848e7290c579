"""A stage that samples: what it logs, that a stop anywhere changes nothing, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.core.errors import RecipeError, RefusedError, TerminatedError
from posttrain.core.metrics import DIFFICULTIES
from posttrain.pipeline.recipe import read_recipe
from posttrain.pipeline.run import run_recipe
from tests.pipeline.grpo_runs import make_workshop, rl
from tests.pipeline.tiny_runs import StopInTraining, Workshop, drop_times


@pytest.fixture
def workshop(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    return make_workshop(tmp_path, tiny_base, monkeypatch)


def run(workshop: Workshop, values: dict[str, Any], name: str, *, overrides: tuple[str, ...] = ()) -> dict:
    path = workshop.folder / f"{name}.yaml"
    path.write_text(json.dumps({**values, "folder": f"runs/{name}"}))
    folder = run_recipe(read_recipe(path), override=list(overrides))
    return json.loads((folder / "run.json").read_text())


def read_lines(workshop: Workshop, name: str) -> list[dict[str, float]]:
    (path,) = (workshop.folder / "runs" / name / "stages").glob("*/metrics.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def stop_after(workshop: Workshop, values: dict[str, Any], name: str, num_updates: int) -> None:
    """Start a run that is asked to stop after so many updates."""
    progress = StopInTraining(num_updates)
    path = workshop.folder / f"{name}.yaml"
    path.write_text(json.dumps({**values, "folder": f"runs/{name}"}))
    with pytest.raises(TerminatedError, match=f"after step {num_updates} of"):
        run_recipe(read_recipe(path), override=["length_caps"], progress=progress, should_stop=progress)


def output(record: dict[str, Any]) -> str:
    return record["stages"][0]["outputs"]["policy"]


def test_what_is_rewarded_becomes_frequent_and_the_figures_are_logged(workshop: Workshop) -> None:
    values = rl(steps=12, problems_per_step=8, group_size=8, algorithm="dr_grpo", scorer="own.py:vowels")
    run(workshop, {**values, "seed": 3}, "vowels", overrides=("length_caps",))
    lines = read_lines(workshop, "vowels")
    rewards = [line["reward"] for line in lines]
    assert sum(rewards[-3:]) > 2 * sum(rewards[:3])
    assert lines[0]["sampler_mismatch/max"] < 1e-4 and lines[0]["effective_sample_size"] > 0.999
    assert 0 < lines[-1]["entropy"] < lines[0]["entropy"]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, marks=pytest.mark.invariants),
        {"minibatches": 2, "epochs_per_step": 2},
        pytest.param({"adapter": {"rank": 2}}, marks=pytest.mark.invariants),
        {"rollout_tokens_per_step": 3, "steps": 5, "scorer": "own.py:vowels"},
        pytest.param(
            {"rollout_tokens_per_step": 3, "steps": 5, "minibatches": 2, "curriculum": {}},
            marks=pytest.mark.invariants,
        ),
        {"curriculum": {}, "max_waves": 2, "scorer": {"type": "length", "low": 5, "high": 7}, "solved_from": 1.0},
    ],
    ids=str,
)
def test_a_run_that_is_stopped_after_any_update_ends_as_one_that_was_not(
    workshop: Workshop, changes: dict[str, Any]
) -> None:
    whole = output(run(workshop, rl(**changes), "whole", overrides=("length_caps",)))
    for after in (1, 2):
        stop_after(workshop, rl(**changes), f"stopped-{after}", after)
        assert output(run(workshop, rl(**changes), f"stopped-{after}", overrides=("length_caps",))) == whole


def test_a_line_of_figures_that_a_stop_lies_in_says_what_it_would_have_said(workshop: Workshop) -> None:
    """A line after every third of eight updates, a stop after the fourth."""
    changes = {"minibatches": 2, "epochs_per_step": 2, "steps": 2, "log_every_steps": 3}
    run(workshop, rl(**changes), "whole", overrides=("length_caps",))
    stop_after(workshop, rl(**changes), "stopped", 4)
    run(workshop, rl(**changes), "stopped", overrides=("length_caps",))
    one, other = ([drop_times(line) for line in read_lines(workshop, name)] for name in ("whole", "stopped"))
    assert [line["step"] for line in one] == [1, 3, 6, 8] and one == other


def test_sharing_prompts_overlapping_and_skipping_change_the_weights_by_rounding_only(workshop: Workshop) -> None:
    from safetensors.torch import load_file

    def weights(name: str, **changes: Any) -> dict[str, Any]:
        # A large epsilon, so that the update is in proportion to the gradient and rounding stays rounding.
        values = rl(steps=1, algorithm="dapo", learning_rate=0.5, epsilon=1.0, **changes)
        record = run(workshop, values, name, overrides=("length_caps",))
        return load_file(workshop.folder / "runs" / name / "artifacts" / output(record) / "model.safetensors")

    plain = weights("plain")
    for name, changes in (
        ("apart", {"share_prompts": "off"}),
        ("after", {"overlap_scoring": False}),
        ("settled", {"skip_settled": False}),
        ("padded", {"packing": "off"}),
    ):
        other = weights(name, **changes)
        assert max(float((plain[key] - other[key]).abs().max()) for key in plain) < 1e-6


def test_a_step_in_which_nothing_ends_says_nothing_of_rewards_and_the_first_rollouts_are_kept_for_the_report(
    workshop: Workshop,
) -> None:
    """Random policies draw on to the cap of 8, 3 tokens a step: groups end two steps after they were begun.

    Ten problems are 4, 4 and 2 in the first pass, and 4 of the next: nothing ends, nothing, the first 4, and in the
    last step, which draws all, the other 10.
    """
    run(workshop, rl(steps=4, rollout_tokens_per_step=3), "partial", overrides=("length_caps",))
    lines = read_lines(workshop, "partial")
    assert ["reward" in line for line in lines] == [False, False, True, True]
    assert [line["off_policy/set_aside"] for line in lines] == [4, 8, 6, 0]
    assert lines[2]["off_policy/mean_age"] == pytest.approx((3 * 2 + 3 * 1) / 8)
    assert lines[2]["off_policy/token_fraction"] == pytest.approx(6 / 8)
    drawn = [sum(line[f"tokens_by_difficulty/{band}"] for band in DIFFICULTIES) for line in lines]
    assert drawn[:3] == [0, 0, 4 * 4 * 8] and 300 < drawn[3] <= 10 * 4 * 8  # one or two stop by chance
    (path,) = (workshop.folder / "runs" / "partial" / "stages").glob("*/rows.json")
    first = json.loads(path.read_text())[0]
    assert "sample 0, reward" in first["row_id"]
    assert sum(is_trained for _, _, _, is_trained in first["tokens"]) == 8
    assert not list(path.parent.glob("rollouts/*"))


def test_the_rows_of_a_source_are_judged_by_its_own_scorer(workshop: Workshop) -> None:
    halves = [
        {"source": "rows.jsonl", "rows": 4, "scorer": "own.py:nothing"},
        {"source": "rows.jsonl", "skip": 4, "rows": 4},
    ]
    values = rl(data=halves, scorer="own.py:zero", steps=1, problems_per_step=8)
    run(workshop, values, "halves", overrides=("length_caps", "rollouts"))
    assert [line["reward"] for line in read_lines(workshop, "halves")] == [0.5]


def test_zero_steps_pass_the_policy_on_as_it_is(workshop: Workshop) -> None:
    record = run(workshop, rl(steps=0), "none", overrides=("rollouts", "length_caps"))
    assert record["status"] == "finished" and record["stages"][0]["tokens"] == 0


def test_rewards_that_are_all_equal_are_refused_before_anything_is_trained(workshop: Workshop) -> None:
    with pytest.raises(RefusedError, match="rewards are 1"):
        run(workshop, rl(scorer="own.py:nothing"), "equal", overrides=("length_caps",))
    record = run(workshop, rl(scorer="own.py:nothing", steps=1), "still", overrides=("rollouts", "length_caps"))
    assert record["status"] == "finished"


def test_a_scorer_that_fails_by_itself_stops_the_run_and_leaves_the_folder_whole(workshop: Workshop) -> None:
    with pytest.raises(RefusedError, match="the disk is away"):
        run(workshop, rl(scorer="own.py:broken"), "broken", overrides=("rollouts", "length_caps"))
    record = json.loads((workshop.folder / "runs" / "broken" / "run.json").read_text())
    assert record["status"] == "refused"


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"kl": "forward_kl", "kl_place": "reward", "kl_coefficient": 0.1}, "a KL in the reward is the reverse one"),
        ({"algorithm": "dapo", "kl": "reverse_kl"}, "needs kl_coefficient"),
        ({"algorithm": "dapo", "kl_place": "loss"}, "say nothing with kl: none"),
        ({"clipping": "none", "clip_high": 0.2}, "clip_high bounds nothing"),
        ({"clip_low": 1.5}, "expected a number above 0 and below 1"),
        ({"ratio": "sequence", "aggregation": "token_mean"}, "set aggregation: sequence_mean"),
        ({"scale": "group_std", "baseline": "none"}, "needs a baseline of the group"),
        ({"minibatches": 9}, "minibatches: 9 of 4 problems"),
        ({"overlong": "mask", "overlong_buffer": 2}, "give one of them"),
        ({"rollout_tokens_per_step": 8}, "sets nothing aside of 8 tokens"),
        ({"rollout_tokens_per_step": 4, "max_waves": 2}, "nobody knows yet"),
        ({"rollout_tokens_per_step": 4, "importance_cap": None}, "leave importance_cap out"),
        ({"rollout_tokens_per_step": 4, "stop": ["a"]}, "may lie across two steps"),
        ({"rollout_tokens_per_step": 4, "environment": {"tools": ["calculator"]}}, "would cut calls in two"),
        ({"curriculum": {"floor": 0}}, "floor"),
        ({"overlong_buffer": 8}, "is no part of 8 tokens"),
        ({"algorithm": "grop"}, "algorithm"),
        ({"group_size": 1}, "group_size"),
        ({"scorer": "lenght"}, "lenght"),
        ({"data": [{"source": "rows.jsonl", "scorer": "lenght"}], "scorer": None}, "lenght"),
        ({"data": [{"source": "rows.jsonl", "scorer": "length"}]}, "the stage's judges nothing"),
        ({"scorer": None}, "nobody rewards the rows of rows.jsonl"),
        ({"data": [{"source": "rows.jsonl", "proportion": 1.0}]}, "choose how many of each source by rows"),
    ],
    ids=str,
)
def test_choices_that_cannot_be_are_refused_with_the_reason(
    workshop: Workshop, changes: dict[str, Any], found: str
) -> None:
    path = workshop.folder / "bad.yaml"
    path.write_text(json.dumps(rl(**changes)))
    with pytest.raises(RecipeError) as caught:
        read_recipe(path)
    assert found in f"{caught.value.found} {caught.value.expected} {caught.value.cure}"


def test_activation_checkpointing_is_switched_on_in_the_model(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    from posttrain.pipeline import grpo_wiring

    switched: list[Any] = []
    monkeypatch.setattr(grpo_wiring, "enable_checkpointing", switched.append)
    run(workshop, rl(steps=1), "off", overrides=("length_caps",))
    assert not switched
    run(workshop, rl(steps=1, activation_checkpointing="on"), "on", overrides=("length_caps",))
    assert len(switched) == 1
