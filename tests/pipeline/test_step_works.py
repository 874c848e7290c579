"""What the steps of stages beside SFT compute: their largest micro-batch, what drawing takes, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from posttrain.core.errors import RefusedError
from posttrain.data.ledger import Ledger
from posttrain.data.mixing import RowOrder
from posttrain.data.pairs import PairData
from posttrain.pipeline import estimates, step_works
from posttrain.pipeline.estimates import StepWork, estimate_memory, wrap_language_model
from posttrain.pipeline.plan import PlannedStage, build_plan
from posttrain.pipeline.preflight.findings import Finding
from posttrain.pipeline.preflight.memory import check_memory
from posttrain.pipeline.step_works import build_grpo_work, build_pair_work, build_reward_work
from posttrain.stages.grpo import GrpoConfig
from posttrain.stages.preference import PreferenceConfig
from posttrain.stages.reward_model import RewardModelConfig
from posttrain.training.distributed import Ranks
from tests.pipeline.kto_runs import labelled, make_labelled_workshop
from tests.pipeline.preference_runs import dpo
from tests.pipeline.reward_runs import rm, write_reward_rows
from tests.pipeline.tiny_runs import Workshop
from tests.stages.test_preference import PARTS, draw_rows
from tests.training.tiny import ARCHITECTURES

DATA = {"data": [{"source": "rows"}], "dtype": "float32"}
PAIRS = PairData([draw_rows(PARTS)], Ledger(), len(PARTS), [])
LONGEST = PARTS.index((20, 7, 2))
SAMPLED = {
    "name": "rl",
    "type": "grpo",
    "data": [{"source": "rows.jsonl"}],
    "scorer": {"type": "length", "low": 2, "high": 3, "slope": 20},
    "steps": 1,
    "max_new_tokens": 4,
}


def order_of(**changes: Any) -> RowOrder:
    return RowOrder([len(PARTS)], [None], 1, changes.get("batch_size", len(PARTS)))


def find_pairs(layout: Any, ranks: Ranks | None = None, *, may_share: bool = True, **changes: Any) -> Any:
    config = PreferenceConfig.model_validate({**DATA, "steps": 1, "batch_size": len(PARTS), **changes})
    work = build_pair_work(config, PAIRS, order_of(**changes), ranks or Ranks(), may_share=may_share)
    return work.find_largest(layout)


def test_a_pair_above_the_budget_is_the_largest_micro_batch_with_its_prompt_once_or_twice() -> None:
    """A prompt of 20 with 7 and 2 tokens behind it is 29, or 27 and 22; fillers make 30 and 52 of 29 and 49."""
    shared = find_pairs("packed", micro_batch_tokens=29).micro_batch
    assert sum(shared.lengths) == 30
    apart = find_pairs("packed", may_share=False, micro_batch_tokens=29).micro_batch
    assert apart.lengths == (27, 22, 3) and len(apart.scored_N) == 9
    assert find_pairs("padded", micro_batch_tokens=54).micro_batch.lengths == (27, 22)


def test_micro_batches_of_pairs_are_shared_out_among_ranks() -> None:
    """One row a micro-batch: eight in one process, four in each of two."""
    assert find_pairs("packed", micro_batch_tokens=1).num_micro_batches == len(PARTS)
    assert find_pairs("packed", Ranks(0, 2), micro_batch_tokens=1).num_micro_batches == len(PARTS) // 2


def test_the_longest_pair_counts_where_steps_come_that_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_works, "NUM_STEPS", 1)
    order = order_of(batch_size=1)
    first = next(step for step in range(len(PARTS)) if order.rows_of_step(step) == [(0, LONGEST)])
    assert first > 0  # it is not in the step that is looked at
    found = find_pairs("packed", batch_size=1, steps=first + 1).micro_batch
    assert sum(found.lengths) == 30 and len(found.scored_N) == 9


def build_model(**changes: Any) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(**(ARCHITECTURES["llama"] | changes)))


def test_a_reward_model_trains_a_head_of_scores_and_not_the_one_over_the_vocabulary() -> None:
    config = RewardModelConfig.model_validate({**DATA, "steps": 1})
    work = build_reward_work(config, PAIRS, Ranks(), 1)
    model = build_model(tie_word_embeddings=False)
    head, whole = model.lm_head.weight, sum(p.numel() for p in model.parameters())
    policy = work.wrap(model, "packed")
    assert sum(p.numel() for p in policy.parameters() if p.requires_grad) == whole - head.numel() + head.shape[1]
    largest = work.find_largest("packed").micro_batch
    assert len(largest.scored_N) <= 2 * len(PARTS) and len(largest.targets_N) == 0  # the last token of each completion


def count_drawing(policy: Any, **changes: Any) -> tuple[Any, int]:
    values = {**DATA, "scorer": "exact", "steps": 1, "problems_per_step": 2, "group_size": 4, "max_new_tokens": 5}
    work = build_grpo_work(GrpoConfig.model_validate({**values, **changes}), 10, None, Ranks())
    assert work.count_drawing is not None
    return work, work.count_drawing(policy)


def test_completions_that_are_yet_to_be_drawn_count_as_long_as_they_may_become() -> None:
    """Prompts of 10 tokens, completions of 5: a budget of 40 holds two padded rows, or a prompt with four of them."""
    policy = wrap_language_model(build_model(), "padded")
    work, drawing = count_drawing(policy, micro_batch_tokens=40)
    padded, shared = work.find_largest("padded"), work.find_largest("packed")
    assert padded.micro_batch.lengths == (15, 15) and padded.num_micro_batches == 4
    assert sum(shared.micro_batch.lengths) == 30 and shared.num_micro_batches == 2
    assert len(padded.micro_batch.scored_N) == 10 and len(shared.micro_batch.scored_N) == 20
    # Eight rows of 32 tokens and three prompts of 32, keys and values of every layer; and logits of eight rows.
    shape = policy.model.config
    tokens, a_token = 8 * 32 + 3 * 32, 2 * shape.num_hidden_layers * shape.num_key_value_heads * shape.head_dim * 4
    assert drawing == tokens * a_token + 8 * shape.vocab_size * (4 + 4)


def test_a_reference_is_one_more_copy_of_the_weights() -> None:
    policy = wrap_language_model(build_model(), "padded")
    assert count_drawing(policy, kl="none")[0].num_copies == 1
    assert count_drawing(policy, kl="reverse_kl", kl_coefficient=0.1)[0].num_copies == 2


@pytest.fixture
def workshop(tmp_path: Path, tiny_base: Path) -> Workshop:
    made = make_labelled_workshop(tmp_path, tiny_base)
    write_reward_rows(made.folder)
    return made


STAGES = {"preference": dpo(), "kto": labelled(), "reward_model": rm(members=3), "grpo": SAMPLED}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_whose_step_does_not_fit_is_refused_before_it_trains(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(estimates, "find_free_memory", lambda: 10_000_000)
    with pytest.raises(RefusedError, match=r"a step needs about .* and 10 MB are free"):
        workshop.run(STAGES[name], override=["rollouts", "length_caps", "step_zero"])
    findings = json.loads((workshop.folder / "run" / "run.json").read_text())["preflight"]
    (found,) = [finding for finding in findings if finding["name"] == "memory"]
    assert found["status"] == "refused" and found["figures"]["activations_bytes"] > 0
    assert (found["figures"]["drawing_bytes"] > 0) == (found["figures"]["copies_bytes"] > 0) == (name == "grpo")


def plan(workshop: Workshop, stage: dict[str, Any]) -> PlannedStage:
    return build_plan(workshop.read(stage)).stages[0]


@pytest.mark.parametrize("name", STAGES)
def test_a_plan_says_what_memory_and_where_rows_are_known_what_time_a_stage_takes(
    workshop: Workshop, name: str
) -> None:
    found = plan(workshop, STAGES[name])
    assert found.memory_bytes is not None and found.memory_bytes > 0
    assert (found.seconds is None) == (name == "grpo")
    assert found.seconds is None or found.seconds > 0


def test_members_take_time_one_after_the_other_and_the_memory_of_one(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("posttrain.pipeline.stage_kinds.rows.estimate_seconds", lambda *given, **named: 2.0)
    one, three = plan(workshop, rm()), plan(workshop, rm(members=3))
    assert (one.seconds, three.seconds) == (2.0, 6.0)
    assert one.memory_bytes is not None and three.memory_bytes is not None
    assert abs(one.memory_bytes - three.memory_bytes) < 3_000_000  # the process itself grows between two estimates


def test_passes_without_a_gradient_count_a_third(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over one epoch DPO runs its reference once over all pairs, KTO also both for completions of other rows."""
    tokens: list[int] = []
    monkeypatch.setattr(
        "posttrain.pipeline.stage_kinds.rows.estimate_seconds",
        lambda folder, config, work, count, **named: tokens.append(count) or 1.0,
    )
    once: dict[str, Any] = {"steps": None, "epochs": 1}
    stages = [dpo(**once), dpo(**once, algorithm="simpo"), labelled(**once), labelled(**once, loss="bco")]
    for stage, passes in zip(stages, (1, 0, 3, 1), strict=True):
        seen = plan(workshop, stage).tokens
        assert seen is not None and tokens[-1] == seen + round(passes * seen / 3)


def test_activation_checkpointing_is_proposed_as_the_stage_takes_it(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`preference` knows on and off, and no auto."""
    config = PreferenceConfig.model_validate({**DATA, "steps": 1, "batch_size": len(PARTS)})

    def build_work(changed: PreferenceConfig) -> StepWork:
        return build_pair_work(changed, PAIRS, order_of(), Ranks(), may_share=True)

    def judge() -> Finding:
        return check_memory("dpo", tiny_base, config, build_work, Ranks(), longest=29)

    kept = config.model_copy(update={"activation_checkpointing": "on"})
    needed = estimate_memory(tiny_base, kept, build_work(kept), Ranks())
    free = (needed.total - needed.process) / estimates.MEMORY_SHARE + 1000
    monkeypatch.setattr(estimates, "find_free_memory", lambda: int(free))
    found = judge()
    assert found.status == "refused" and "set activation_checkpointing: on (" in found.cure
