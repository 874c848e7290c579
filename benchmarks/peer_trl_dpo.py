"""TRL's DPOTrainer on the same model and pairs, in the settings known for it on a CPU.

bf16 autocast over fp32 weights, activation checkpointing off as on our side. `precomputed` computes the reference's
log-probs before training, as we do; `online` in every step, with a second model in memory. Runs in TRL's own
environment and imports nothing of this project's package.

    python -m benchmarks.peer_trl_dpo --folder .cache/benchmarks --model 4m --steps 12 --work <folder>
"""

from __future__ import annotations

import time
from typing import Any

import torch
import transformers
import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

from benchmarks.dpo_work import BETA, LEARNING_RATE, PAIRS, DpoRecord, build_side_parser, make_pairs
from benchmarks.machine import describe_machine, find_device, measure_product_rate
from benchmarks.models import MAX_LENGTH
from benchmarks.peer_clock import StepClock


class TimedTrainer(DPOTrainer):
    """Notes how long the reference pass before training takes."""

    reference_seconds = 0.0

    def _precompute_ref_logps(self, *arguments: Any, **options: Any) -> Any:
        began = time.perf_counter()
        found = super()._precompute_ref_logps(*arguments, **options)
        self.reference_seconds += time.perf_counter() - began
        return found


class CountingCollator:
    """Counts the completions' tokens of each batch on its way to the trainer."""

    def __init__(self, collator: Any) -> None:
        self.collator = collator
        self.trained: list[int] = []

    def __call__(self, rows: list[Any]) -> Any:
        """Collate as the trainer would."""
        batch = self.collator(rows)
        self.trained.append(int(batch["completion_mask"].sum()))
        return batch


def main() -> None:
    arguments = build_side_parser(__doc__, ("precomputed", "online")).parse_args()
    device = find_device(arguments.device)
    config = DPOConfig(
        output_dir=str(arguments.work / "trl"),
        per_device_train_batch_size=PAIRS[arguments.model],
        max_steps=arguments.steps,
        max_length=2 * MAX_LENGTH,
        learning_rate=LEARNING_RATE,
        beta=BETA,
        precompute_ref_log_probs=arguments.setting == "precomputed",
        bf16=True,
        use_cpu=device.type == "cpu",
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    folder = arguments.folder / arguments.model
    clock = StepClock(device)
    trainer = TimedTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        args=config,
        train_dataset=Dataset.from_list(make_pairs(arguments.folder, arguments.model, arguments.steps)),
        processing_class=AutoTokenizer.from_pretrained(folder),
        callbacks=[clock],
    )
    trainer.data_collator = counts = CountingCollator(trainer.data_collator)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    steps = len(clock.ends)
    record = DpoRecord(
        side="trl",
        model=arguments.model,
        setting=arguments.setting,
        steps=steps,
        pairs=PAIRS[arguments.model],
        trained_tokens=sum(counts.trained[:steps]) / steps,
        reference_seconds=trainer.reference_seconds,
        timed_seconds=clock.ends[-1] - clock.ends[0],
        first_step_seconds=clock.first_step_seconds,
        first_loss=losses[0],
        final_loss=losses[-1],
        peak_memory_bytes=clock.peak_memory_bytes,
        product_gflops=measure_product_rate(device),
        machine=describe_machine(device),
        versions={"trl": trl.__version__, "transformers": transformers.__version__},
    )
    print(record.to_line())


if __name__ == "__main__":
    main()
