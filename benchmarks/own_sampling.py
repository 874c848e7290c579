"""Sampling by this project's engine, in bf16, from prompts that are rendered already.

    python -m benchmarks.own_sampling --folder .cache/benchmarks --model 4m --work main

Modes: `shared` draws a prompt's samples as one group; `separate` as so many problems of one sample each. Of mixed
lengths, `shared` ends each sequence at its own length and gives its row to the next; `waves` starts the next only
when all rows have ended; `longest` also runs every sequence as long as the longest of its wave.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmarks.sampling_side import choose_work, measure_side, parse_side_arguments
from benchmarks.sampling_work import Work, cut_waves, read_prompts

MODES = ("shared", "separate", "waves", "longest")


class OwnSide:
    """Draws with the engine."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        import torch

        from posttrain.models.loading import load_policy
        from posttrain.models.text_tokenizer import HuggingFaceTextTokenizer
        from posttrain.pipeline.sampling import build_engine_model
        from posttrain.samplers.local import EngineOptions, LocalSampler

        device = "cuda" if arguments.device != "cpu" and torch.cuda.is_available() else "cpu"
        policy = load_policy(arguments.folder / arguments.model, dtype="bfloat16", device=device)
        self.mode = arguments.mode
        self.prompts = read_prompts(arguments.folder, choose_work(arguments))
        self.sampler = LocalSampler(
            build_engine_model(policy.model, torch.bfloat16),
            policy.hash,
            lambda problems: [self.prompts[int(problem.problem_id)] for problem in problems],
            HuggingFaceTextTokenizer(policy.tokenizer).decode,
            options=EngineOptions(max_rows=choose_work(arguments).rows),
        )

    def draw(self, work: Work, seed: int) -> int:
        """Draw a work in the side's mode and return the tokens of it that were asked for."""
        lengths = work.list_lengths()
        if not work.is_mixed:
            return sum(self._draw_even(range(work.prompts), work, seed))
        if self.mode == "shared":
            return self._draw_mixed(range(work.prompts), lengths, work, seed)
        waves = cut_waves(lengths, work.rows)
        if self.mode == "waves":
            return sum(self._draw_mixed(wave, lengths, work, seed) for wave in waves)
        for wave in waves:
            self._draw_even(wave, replace(work, new_tokens=max(max(lengths[index]) for index in wave)), seed)
        return sum(map(sum, lengths))

    def _draw_even(self, problems: range, work: Work, seed: int) -> list[int]:
        """Let every sequence draw the work's number of tokens; return how many each has drawn."""
        from posttrain.core.records import Problem
        from posttrain.core.sampling import SamplingSettings

        is_separate = self.mode == "separate"
        settings = SamplingSettings(
            work.new_tokens, temperature=1.0, num_samples=1 if is_separate else work.samples, ignore_eos=True
        )
        repeated = [Problem(str(index), []) for index in problems for _ in range(work.samples if is_separate else 1)]
        seeds = [seed * 1_000_000 + number for number in range(len(repeated))]
        return [len(completion.ids) for _, completion in self.sampler.sample(repeated, settings, seeds)]

    def _draw_mixed(self, problems: range, lengths: Sequence[Sequence[int]], work: Work, seed: int) -> int:
        """Let every sequence draw its own number of tokens, in one pool; return how many were drawn together."""
        from posttrain.core.records import Problem
        from posttrain.core.sampling import SamplingSettings
        from posttrain.samplers.watch import DrawingRequest

        settings = SamplingSettings(work.new_tokens, temperature=1.0, num_samples=work.samples, ignore_eos=True)
        watch = build_length_watch([length for index in problems for length in lengths[index]])
        # No setting of a call gives its sequences lengths of their own, so the watch of its rows is put in place.
        drawn = self.sampler._sample(
            [Problem(str(index), []) for index in problems],
            [self.prompts[index] for index in problems],
            [seed * 1_000_000 + index for index in problems],
            DrawingRequest(settings, (), watch),
        )
        return sum(len(completion.ids) for _, completion in drawn)


def build_length_watch(lengths: Sequence[int]) -> Any:
    """Return what ends each sequence of a pool at its own length, in the order in which they start."""
    import torch

    from posttrain.samplers.watch import RowWatch

    class LengthWatch(RowWatch):
        """Counts down the tokens of each row."""

        def __init__(self) -> None:
            super().__init__(None, None, (), torch.device("cpu"))
            self.left: dict[int, int] = {}
            self.lengths = iter(lengths)

        def start(self, row: int) -> None:
            """Take note of a sequence that starts in a row."""
            self.left[row] = next(self.lengths)

        def accept(self, first_row: int, ids: Sequence[int]) -> dict[int, str]:
            """Return the rows that have drawn their last token."""
            rows = range(first_row, first_row + len(ids))
            for row in rows:
                self.left[row] -= 1
            return {row: "" for row in rows if not self.left[row]}

        def move(self, source: int, target: int) -> None:
            """Let a row's place be taken by another."""
            self.left[target] = self.left[source]

    return LengthWatch()


def main() -> None:
    arguments = parse_side_arguments(__doc__, MODES)
    if arguments.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # read when torch is imported

    import posttrain

    side = OwnSide(arguments)
    name = "own" if arguments.mode == "shared" else f"own-{arguments.mode}"
    print(measure_side(name, arguments, side.draw, {"posttrain": posttrain.__version__}).to_line())


if __name__ == "__main__":
    main()
