"""Whoever watches the engine is told of every token in order, and may end the call."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from posttrain.core.records import Problem
from posttrain.core.sampling import SamplingSettings
from tests.samplers.test_local import draw, make_prompts, make_sampler
from tests.training.tiny import make_model


@pytest.mark.parametrize("num_samples", [1, 3])
def test_the_tokens_told_are_those_of_the_completions_and_watching_changes_none(num_samples: int) -> None:
    prompts = make_prompts()
    settings = SamplingSettings(max_new_tokens=12, temperature=1.0, num_samples=num_samples)
    sampler = make_sampler(make_model("llama").eval(), prompts, stop_ids=(3, 4, 5), max_rows=3)
    expected = draw(sampler, len(prompts), settings)
    told: dict[tuple[int, int], list[int]] = {}

    def listen(index: int, sample_index: int, ids: Sequence[int]) -> None:
        told.setdefault((index, sample_index), []).extend(ids)

    sampler.on_tokens = listen
    drawn = draw(sampler, len(prompts), settings)
    assert [c.ids.tolist() for row in drawn for c in row] == [c.ids.tolist() for row in expected for c in row]
    assert told == {(i, c.sample_index): c.ids.tolist() for i, row in enumerate(drawn) for c in row}


def test_what_the_watcher_raises_ends_the_call_and_leaves_the_engine_ready() -> None:
    prompts = make_prompts()
    settings = SamplingSettings(max_new_tokens=12)
    sampler = make_sampler(make_model("llama").eval(), prompts)
    expected = draw(sampler, len(prompts), settings)

    def stop(index: int, sample_index: int, ids: Sequence[int]) -> None:
        raise KeyboardInterrupt

    sampler.on_tokens = stop
    with pytest.raises(KeyboardInterrupt):
        list(sampler.sample([Problem("0", [])], settings, [1]))
    sampler.on_tokens = None
    again = draw(sampler, len(prompts), settings)
    assert [row[0].ids.tolist() for row in again] == [row[0].ids.tolist() for row in expected]
