"""Sampling by transformers' `generate`: bf16, left-padded batches, each run until its longest sequence ends.

python -m benchmarks.peer_generate --folder .cache/benchmarks --model 4m --work main
"""

from __future__ import annotations

import argparse

import torch
import transformers
from transformers import AutoModelForCausalLM

from benchmarks.machine import find_device
from benchmarks.sampling_side import choose_work, measure_side, parse_side_arguments
from benchmarks.sampling_work import Work, cut_waves, read_prompts

MODES = ("batches",)


class GenerateSide:
    """Draws with `generate`, as many sequences at once as the work has rows."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.device = find_device(arguments.device)
        folder = arguments.folder / arguments.model
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval().to(self.device)
        self.model.generation_config.eos_token_id = None
        self.pad_id = self.model.config.pad_token_id
        self.prompts = read_prompts(arguments.folder, choose_work(arguments))

    def draw(self, work: Work, seed: int) -> int:
        """Draw a work and return the tokens of it that were asked for."""
        torch.manual_seed(seed)
        lengths = work.list_lengths()
        for wave in cut_waves(lengths, work.rows):
            rows = [self.prompts[index] for index in wave for _ in range(work.samples)]
            self._generate(rows, max(max(lengths[index]) for index in wave))
        return sum(map(sum, lengths))

    @torch.inference_mode()
    def _generate(self, rows: list[list[int]], new_tokens: int) -> None:
        longest = max(map(len, rows))
        ids = torch.tensor([[self.pad_id] * (longest - len(row)) + row for row in rows], device=self.device)
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=self.device)
        output = self.model.generate(
            input_ids=ids, attention_mask=mask, do_sample=True, temperature=1.0, top_k=0, max_new_tokens=new_tokens
        )
        if output.shape != (len(rows), longest + new_tokens):
            raise RuntimeError(f"generate gave {tuple(output.shape)}, expected {(len(rows), longest + new_tokens)}")


def main() -> None:
    arguments = parse_side_arguments(__doc__, MODES)
    side = GenerateSide(arguments)
    versions = {"transformers": transformers.__version__}
    print(measure_side("transformers", arguments, side.draw, versions).to_line())


if __name__ == "__main__":
    main()
