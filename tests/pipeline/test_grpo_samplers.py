"""Who draws a stage's completions: what a recipe's `sampler` says to vLLM, and what is refused with the cure."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from posttrain.core.errors import RecipeError, RefusedError
from posttrain.models.loading import load_policy
from posttrain.pipeline import grpo_samplers
from posttrain.pipeline.estimates import DTYPES
from posttrain.pipeline.grpo_samplers import (
    build_stage_sampler,
    check_stage_sampler,
    find_vllm_python,
)
from posttrain.pipeline.plan import build_plan
from posttrain.pipeline.policies import open_renderer
from posttrain.pipeline.recipe import Recipe, read_recipe
from posttrain.pipeline.tracked_metric import hash_weights_in_memory
from posttrain.samplers.local import LocalSampler
from posttrain.stages.grpo import GrpoConfig
from posttrain.stages.sampler_keys import VllmKeys
from posttrain.training.distributed import Ranks
from tests.pipeline.grpo_runs import make_workshop, rl
from tests.pipeline.tiny_runs import Workshop


@pytest.fixture
def workshop(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    monkeypatch.delenv("POSTTRAIN_VLLM_PYTHON", raising=False)
    return make_workshop(tmp_path, tiny_base, monkeypatch)


def read(workshop: Workshop, **changes: Any) -> tuple[Recipe, GrpoConfig]:
    path = workshop.folder / "recipe.yaml"
    path.write_text(json.dumps(rl(**changes)))
    recipe = read_recipe(path)
    config = recipe.stages[0].config
    assert isinstance(config, GrpoConfig)
    return recipe, config


class Built:
    """Stands in vLLM's place and keeps what it was built with."""

    is_repeatable = False

    def __init__(self, settings: Any, policy: Any, *parts: Any, **more: Any) -> None:
        self.settings, self.policy, self.more = settings, policy, more

    def close(self) -> None:
        raise AssertionError("vLLM would end between steps")


def test_every_key_reaches_vllm(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpo_samplers, "VllmSampler", Built)
    monkeypatch.setattr(grpo_samplers, "_read_version", lambda python: "0.32.0")

    def build(stage_dtype: str = "float32", **keys: Any) -> Built:
        recipe, config = read(workshop, sampler={"type": "vllm", **keys}, dtype=stage_dtype)
        with open_renderer(recipe, workshop.folder / "base") as renderer:
            policy = load_policy(workshop.folder / "base", dtype="float32", device="cpu")
            made = build_stage_sampler(config, policy, renderer, Ranks(), recipe.roots)
        made.rest()  # between steps vLLM goes on
        assert made.notes == ["vLLM's draws are not repeatable here: a resumed run draws others"]
        assert made.sampler.policy.hash == hash_weights_in_memory(policy, Ranks(), DTYPES[stage_dtype])
        assert made.sampler.policy.model is policy.model
        return made.sampler

    plain = build().settings
    assert (plain.python, plain.dtype, plain.context_tokens, plain.max_sequences) == (
        Path(sys.executable),
        "float32",
        None,
        64,
    )
    assert plain.cache_bytes is None and plain.engine_arguments == {}
    monkeypatch.setenv("POSTTRAIN_VLLM_PYTHON", "/environment/bin/python")
    assert build().settings.python == Path("/environment/bin/python")
    chosen = build(
        python="vllm-env/bin/python",
        dtype="float16",
        context_tokens=160,
        max_sequences=7,
        cache_gb=0.5,
        engine_arguments={"gpu_memory_utilization": 0.3},
    )
    settings = chosen.settings
    assert settings.python == workshop.folder / "vllm-env/bin/python"
    assert (settings.dtype, settings.context_tokens, settings.max_sequences) == ("float16", 160, 7)
    assert settings.cache_bytes == 500_000_000 and settings.engine_arguments == {"gpu_memory_utilization": 0.3}
    assert settings.tolerance_nats == 0.02 and plain.tolerance_nats == 1e-4
    assert build(dtype="float32", stage_dtype="bfloat16").settings.tolerance_nats == 0.1  # the policy rounds so much
    assert chosen.more["export"].keywords == {"dtype": "float16"}


def test_the_local_sampler_is_the_default_and_has_no_part_in_the_name_of_what_is_made(workshop: Workshop) -> None:
    recipe, config = read(workshop)
    assert "sampler" not in config.identity()
    assert read(workshop, sampler={"type": "vllm", "python": "x"})[1].identity()["sampler"]["type"] == "vllm"
    with open_renderer(recipe, workshop.folder / "base") as renderer:
        policy = load_policy(workshop.folder / "base", dtype="float32", device="cpu")
        made = build_stage_sampler(config, policy, renderer, Ranks(), recipe.roots)
    assert isinstance(made.sampler, LocalSampler) and made.rest == made.sampler.close


@pytest.mark.parametrize(
    ("python", "found"),
    [("no/such/python", "has no vLLM"), (None, "has no vLLM"), ("other", "has vLLM 0.9.1")],
)
def test_a_python_without_vllm_is_refused_with_the_cure_before_anything_is_trained(
    workshop: Workshop, python: str | None, found: str
) -> None:
    other = workshop.folder / "other"
    other.write_text("#!/bin/sh\necho 0.9.1\n")
    other.chmod(0o755)
    recipe, _ = read(workshop, sampler={"type": "vllm", "python": python})
    with pytest.raises(RefusedError) as caught:
        build_plan(recipe)
    assert (
        found in caught.value.found
        and "docs/sampling.md" in caught.value.cure
        and "sampler: local" in caught.value.cure
    )


def test_vllm_and_several_processes_are_refused_together(workshop: Workshop) -> None:
    recipe, config = read(workshop, sampler={"type": "vllm"})
    with pytest.raises(RefusedError, match="vllm in a run of 2 processes"):
        check_stage_sampler(config, Ranks(0, 2), recipe.roots)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"sampler": {"type": "vllm"}, "temperature": 0.7}, "log-probs at temperature 1 alone"),
        ({"sampler": {"type": "vllm", "pyton": "x"}}, "did you mean 'python'"),
        ({"sampler": "vlm"}, "sampler"),
        ({"sampler": {"type": "vllm", "max_sequences": 0}}, "max_sequences"),
    ],
    ids=str,
)
def test_keys_that_cannot_be_are_refused(workshop: Workshop, changes: dict[str, Any], found: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read(workshop, **changes)
    assert found in f"{caught.value.found} {caught.value.expected} {caught.value.cure}"


def test_a_user_s_home_is_found(monkeypatch: pytest.MonkeyPatch, workshop: Workshop) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    recipe, _ = read(workshop)
    keys = VllmKeys(type="vllm", python="~/vllm-env/bin/python")
    assert find_vllm_python(keys, recipe.roots) == Path("/home/me/vllm-env/bin/python")
