"""TRL's GRPOTrainer on the same model and prompts, in the best setting found for it on a CPU.

bf16 autocast over fp32 weights as in training there, activation checkpointing off as on our side, one update a
generation, so that it computes no log-probs of an older policy. `--setting` has the others: weights in bf16 (no fp32
masters: an update of 1e-6 is lost in them), a static cache, continuous batching. Its vLLM modes need another
environment and, for the weights, NCCL. Runs in TRL's own environment and imports nothing of this project's package.

    python -m benchmarks.peer_trl_grpo --folder .cache/benchmarks --model 4m --steps 6 --work <folder>
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
import transformers
import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from benchmarks.grpo_work import (
    COMPLETIONS,
    GROUP_SIZE,
    LEARNING_RATE,
    NEW_TOKENS,
    PROBLEMS,
    GrpoRecord,
    build_side_parser,
    count_prompt_tokens,
    reward_completions,
)
from benchmarks.machine import describe_machine, find_device, measure_product_rate
from benchmarks.peer_clock import StepClock
from benchmarks.rows import read_rows

SETTINGS: dict[str, dict[str, Any]] = {
    "autocast": {},
    "bf16-weights": {},
    "static-cache": {"cache_implementation": "static"},
    "continuous": {"use_transformers_continuous_batching": True},
}


def main() -> None:
    arguments = build_side_parser(__doc__, tuple(SETTINGS)).parse_args()
    device = find_device(arguments.device)
    rows = [{"prompt": row["prompt"]} for row in read_rows(arguments.folder / "rows.jsonl", PROBLEMS * arguments.steps)]
    config = GRPOConfig(
        output_dir=str(arguments.work / "trl"),
        per_device_train_batch_size=COMPLETIONS,
        num_generations=GROUP_SIZE,
        max_completion_length=NEW_TOKENS,
        max_steps=arguments.steps,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        beta=0.0,
        loss_type="grpo",
        bf16=True,
        use_cpu=device.type == "cpu",
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        **SETTINGS[arguments.setting],
    )
    folder = arguments.folder / arguments.model
    dtype = torch.bfloat16 if arguments.setting == "bf16-weights" else torch.float32
    tokenizer = AutoTokenizer.from_pretrained(folder)
    clock = StepClock(device)
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder, dtype=dtype),
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        reward_funcs=reward_completions,
        callbacks=[clock],
    )
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "completions/mean_length" in entry]
    record = GrpoRecord(
        side="trl",
        model=arguments.model,
        setting=arguments.setting,
        steps=len(clock.ends),
        prompt_tokens=count_prompt_tokens(tokenizer, arguments.folder, arguments.steps),
        completion_tokens=sum(entry["completions/mean_length"] for entry in logged) / len(logged) * COMPLETIONS,
        timed_seconds=clock.ends[-1] - clock.ends[0],
        slowest_step_seconds=max(b - a for a, b in itertools.pairwise(clock.ends)),
        first_step_seconds=clock.first_step_seconds,
        reward=logged[-1]["reward"],
        peak_memory_bytes=clock.peak_memory_bytes,
        product_gflops=measure_product_rate(device),
        machine=describe_machine(device),
        versions={"trl": trl.__version__, "transformers": transformers.__version__},
    )
    print(record.to_line())


if __name__ == "__main__":
    main()
