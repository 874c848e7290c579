"""TRL's SFTTrainer on the same model and rows, in the best setting known for it on a CPU.

bf16 autocast over fp32 weights, no packing (its packed batches carry a dense mask on CPUs and are
slower), activation checkpointing off as on our side. Runs in TRL's own environment and imports
nothing of this project's package.

    python -m benchmarks.peer_trl_sft --folder .cache/benchmarks --model 4m --steps 20 --work <folder>
"""

from __future__ import annotations

import time
from typing import Any

import torch
import transformers
import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

from benchmarks.machine import describe_machine, find_device, measure_product_rate, peak_memory_bytes, synchronise
from benchmarks.models import LEARNING_RATE, MAX_LENGTH
from benchmarks.record import RunRecord, parse_run_arguments, seconds_since_start
from benchmarks.rows import read_rows


class CountingCollator:
    """Counts the real and the scored tokens of each batch on its way to the trainer."""

    def __init__(self, collator: Any) -> None:
        self.collator = collator
        self.real: list[int] = []
        self.scored: list[int] = []

    def __call__(self, rows: list[Any]) -> Any:
        """Collate as the trainer would."""
        batch = self.collator(rows)
        self.real.append(int(batch["attention_mask"].sum()))
        self.scored.append(int((batch["labels"][:, 1:] != -100).sum()))
        return batch


class StepClock(TrainerCallback):
    """Notes when each optimizer step has ended."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.ends: list[float] = []
        self.first_step_seconds = 0.0

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Called by the trainer after each optimizer step."""
        synchronise(self.device)
        self.ends.append(time.perf_counter())
        if len(self.ends) == 1:
            self.first_step_seconds = seconds_since_start()


def main() -> None:
    arguments = parse_run_arguments(__doc__)
    device = find_device(arguments.device)
    start = time.perf_counter()
    rows = read_rows(arguments.folder / "rows.jsonl", arguments.batch_size * arguments.steps)
    config = SFTConfig(
        output_dir=str(arguments.work / "trl"),
        per_device_train_batch_size=arguments.batch_size,
        max_steps=arguments.steps,
        max_length=MAX_LENGTH,
        learning_rate=LEARNING_RATE,
        bf16=True,
        use_cpu=device.type == "cpu",
        packing=False,
        gradient_checkpointing=False,
        logging_steps=max(1, arguments.steps // 4),
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    folder = arguments.folder / arguments.model
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    clock = StepClock(device)
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(folder),
        callbacks=[clock],
    )
    trainer.data_collator = counts = CountingCollator(trainer.data_collator)
    trained_from = time.perf_counter()
    trainer.train()
    ended = time.perf_counter()
    steps = len(clock.ends)
    record = RunRecord(
        side="trl",
        model=arguments.model,
        steps=steps,
        tokens=sum(counts.real[:steps]),
        scored_tokens=sum(counts.scored[:steps]),
        timed_tokens=sum(counts.real[1:steps]),
        timed_seconds=clock.ends[-1] - clock.ends[0],
        first_step_seconds=clock.first_step_seconds,
        prepare_seconds=trained_from - start,
        train_seconds=ended - trained_from,
        rows_tokenized=len(rows),
        final_loss=next(entry["loss"] for entry in reversed(trainer.state.log_history) if "loss" in entry),
        peak_memory_bytes=peak_memory_bytes(device),
        product_gflops=measure_product_rate(device),
        machine=describe_machine(device),
        versions={"trl": trl.__version__, "transformers": transformers.__version__},
    )
    print(record.to_line())


if __name__ == "__main__":
    main()
