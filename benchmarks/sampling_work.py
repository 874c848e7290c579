"""What the sides draw: how many prompts and samples, of which lengths. Imports nothing large.

    python -m benchmarks.sampling_work --folder .cache/benchmarks --model 4m

writes `prompts.json`, the ids of the rows' prompts, so that every side is given the same ones.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from dataclasses import dataclass
from pathlib import Path

from benchmarks.models import SHAPES
from benchmarks.rows import read_rows

NUM_PROMPTS = 1024
LEAST_LENGTH = 16
TAIL_EXPONENT = 1.1


@dataclass(frozen=True, slots=True)
class Work:
    """One piece of work.

    `new_tokens` is drawn by each sequence, or with `is_mixed` the most that any draws (`draw_lengths`).
    `prompt_tokens` is the length of every prompt, None for the rows' own. At most `rows` sequences run at once.
    """

    prompts: int
    samples: int
    new_tokens: int = 128
    prompt_tokens: int | None = None
    rows: int = 1024
    is_mixed: bool = False

    @property
    def sequences(self) -> int:
        """How many sequences are drawn."""
        return self.prompts * self.samples

    def list_lengths(self) -> list[list[int]]:
        """Return how many tokens each sample of each prompt draws."""
        n = self.samples
        lengths = draw_lengths(self.sequences, self.new_tokens) if self.is_mixed else [self.new_tokens] * self.sequences
        return [lengths[index * n : (index + 1) * n] for index in range(self.prompts)]


WORKS = {
    "main": Work(8, 8),
    "batch-1": Work(1, 1),
    "batch-8": Work(8, 1),
    "batch-256": Work(32, 8),
    "mixed": Work(32, 8, new_tokens=256, rows=64, is_mixed=True),
    "groups": Work(8, 8, prompt_tokens=1000),
    "memory-8": Work(1, 8),
    "memory-64": Work(8, 8),
    "memory-256": Work(32, 8),
    "memory-1024": Work(128, 8),
}


def draw_lengths(count: int, most: int, *, seed: int = 0) -> list[int]:
    """Return heavy-tailed lengths: 16 u^(-1/1.1) with u uniform, a Pareto distribution, cut at the most."""
    generator = random.Random(seed)
    drawn = (LEAST_LENGTH * (1 - generator.random()) ** (-1 / TAIL_EXPONENT) for _ in range(count))
    return [max(1, min(most, math.ceil(length))) for length in drawn]


def cut_waves(lengths: list[list[int]], rows: int) -> list[range]:
    """Return the problems of each wave where the next may start only when all sequences of one have ended."""
    size = max(1, rows // len(lengths[0]))
    return [range(start, min(start + size, len(lengths))) for start in range(0, len(lengths), size)]


def read_prompts(folder: Path, work: Work) -> list[list[int]]:
    """Return the ids of a work's prompts; long ones are several prompts end to end, each taken once."""
    prompts: list[list[int]] = json.loads((folder / "prompts.json").read_text(encoding="utf-8"))
    return join_prompts(prompts, work)


def join_prompts(prompts: list[list[int]], work: Work) -> list[list[int]]:
    """Return as many prompts as the work has, of the length it asks for."""
    if work.prompt_tokens is None:
        return [prompts[index % len(prompts)] for index in range(work.prompts)]
    joined: list[list[int]] = []
    next_prompt = 0
    for _ in range(work.prompts):
        ids: list[int] = []
        while len(ids) < work.prompt_tokens:
            ids += prompts[next_prompt % len(prompts)]
            next_prompt += 1
        joined.append(ids[: work.prompt_tokens])
    return joined


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="what benchmarks.models wrote")
    parser.add_argument("--model", choices=sorted(SHAPES), required=True, help="whose tokenizer (they are the same)")
    arguments = parser.parse_args()

    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(arguments.folder / arguments.model)
    texts = [
        tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
        for row in read_rows(arguments.folder / "rows.jsonl", NUM_PROMPTS)
    ]
    prompts = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    (arguments.folder / "prompts.json").write_text(json.dumps(prompts), encoding="utf-8")


if __name__ == "__main__":
    main()
