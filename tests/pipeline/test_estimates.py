"""The micro-batch that memory is estimated for, and how often a model is built for an estimate."""

from __future__ import annotations

from typing import Any

import pytest

from posttrain.core.progress import SilentProgress
from posttrain.data.ledger import Ledger
from posttrain.data.tokenized import TokenizedData
from posttrain.pipeline import estimates
from posttrain.pipeline.estimates import estimate_memory, needs_checkpointing
from posttrain.pipeline.policies import open_renderer
from posttrain.pipeline.step_works import build_sft_work, find_largest_rows
from posttrain.pipeline.wiring import StageData, load_stage_data
from posttrain.stages.sft import SftConfig, build_order
from posttrain.training.batches import count_scored
from posttrain.training.distributed import Ranks
from tests.pipeline.tiny_runs import Workshop, sft
from tests.stages.tiny_sft import make_config
from tests.training.tiny import make_samples, make_token_rows


def make_stage_data(*sources: tuple[int, ...]) -> StageData:
    rows = [make_token_rows(make_samples(lengths)) for lengths in sources]
    return StageData(TokenizedData(rows, Ledger(), sum(map(len, sources))), None)


def read_lengths(data: StageData, places: list[tuple[int, int]]) -> list[int]:
    return [int(data.train.rows[source].lengths_R[row]) for source, row in places]


def config_of(**changes: Any) -> SftConfig:
    return make_config(**changes)


def test_only_steps_that_will_be_taken_are_looked_at() -> None:
    data = make_stage_data(tuple(range(2, 42)))
    order = build_order(config_of(), data.train, 5)
    first = [int(data.train.rows[0].lengths_R[row]) for _, row in order.rows_of_step(0)]
    for steps, expected in ((1, sum(first)), (0, 2)):  # of no step, the first row
        rows, micro_batches = find_largest_rows(config_of(steps=steps), data, Ranks(), 5, "packed")
        assert (sum(read_lengths(data, rows)), micro_batches) == (expected, 1)


def test_the_longest_row_counts_if_it_comes_after_the_steps_that_are_looked_at() -> None:
    """One row in 60 is longer than all that a budget of 16 tokens lets share a micro-batch."""
    data = make_stage_data((4,) * 59 + (90,))
    config = config_of(steps=60, batch_size=1, micro_batch_tokens=16)
    order = build_order(config, data.train, 3)
    step = next(step for step in range(60) if order.rows_of_step(step) == [(0, 59)])
    for looked_at in (step, step + 1):
        rows, _ = find_largest_rows(config, data, Ranks(), 3, "packed", num_steps=looked_at)
        assert read_lengths(data, rows) == [90]
    rows, _ = find_largest_rows(
        config_of(steps=step, batch_size=1, micro_batch_tokens=16), data, Ranks(), 3, "packed", num_steps=step
    )
    assert read_lengths(data, rows) == [4]


def test_the_largest_micro_batch_holds_those_rows_with_their_trained_tokens() -> None:
    data = make_stage_data((4, 90, 7))
    config = config_of(steps=1, batch_size=3, micro_batch_tokens=90)
    batch = build_sft_work(config, data, Ranks(), 3).find_largest("padded").micro_batch
    assert batch.lengths == (90,) and len(batch.scored_N) == count_scored(data.train.rows[0].row(1))


def test_padded_rows_take_what_the_longest_takes() -> None:
    """Rows of 10 and 2 are 12 tokens and 20 padded, rows of 6 and 7 are 13 and 14: which are more depends on it."""
    config = config_of(steps=2, batch_size=2)
    for seed in range(100):
        data = make_stage_data((10, 2, 6, 7))
        order = build_order(config, data.train, seed)
        if sorted(row for _, row in order.rows_of_step(0)) == [0, 1]:
            break
    assert sorted(read_lengths(data, find_largest_rows(config, data, Ranks(), seed, "padded")[0])) == [2, 10]
    assert sorted(read_lengths(data, find_largest_rows(config, data, Ranks(), seed, "packed")[0])) == [6, 7]


def test_micro_batches_are_counted_where_a_step_has_most_of_them_on_one_rank() -> None:
    """Of 1 row of 40 tokens and 8 of 5, in steps of 3, one step has 3 micro-batches of at most 8 tokens."""
    data = make_stage_data((40, *(5,) * 8))
    config = config_of(steps=3, batch_size=3, micro_batch_tokens=8)
    for count, expected in ((1, 3), (2, 2), (3, 1)):
        rows, micro_batches = find_largest_rows(config, data, Ranks(0, count), 1, "packed")
        assert (read_lengths(data, rows), micro_batches) == ([40], expected)


@pytest.mark.parametrize(("setting", "free", "builds"), [("auto", 1 << 40, 1), ("auto", 1, 2), ("on", 1, 2)])
def test_a_model_is_built_once_for_each_estimate(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, setting: str, free: int, builds: int
) -> None:
    recipe = workshop.read(sft(activation_checkpointing=setting))
    config = recipe.stages[0].config
    assert isinstance(config, SftConfig)
    base = workshop.folder / "base"
    with open_renderer(recipe, base) as renderer:
        data = load_stage_data(recipe, config, renderer, 256, SilentProgress())
    built: list[bool] = []
    build = estimates._build_policy

    def count(*arguments: Any, checkpointing: bool) -> Any:
        built.append(checkpointing)
        return build(*arguments, checkpointing=checkpointing)

    monkeypatch.setattr(estimates, "_build_policy", count)
    monkeypatch.setattr(estimates, "find_free_memory", lambda: free)
    work = build_sft_work(config, data, Ranks(), 1)
    estimate = estimate_memory(base, config, work, Ranks())
    assert built == [False, True][:builds]
    needs = needs_checkpointing(base, config, work, Ranks())
    assert needs is (free == 1) and len(built) == builds + 1
    assert estimate.total > 0
