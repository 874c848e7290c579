"""Sampling by vLLM, in an environment of its own; imports nothing of this project's package.

    <its environment>/bin/python -m benchmarks.peer_vllm --folder .cache/benchmarks --model 4m --work main

Compiled unless `--mode eager`. Prompts that a former pass has left in its cache are forgotten before each pass, so
that every pass is the whole work. Of mixed lengths each sequence is a request of its own. Its memory is that of all
its processes; `VLLM_CPU_KVCACHE_SPACE` (in GiB, 2 unless set) is reserved at once.
"""

from __future__ import annotations

import argparse
import os

from benchmarks.machine import peak_memory_of_tree_bytes
from benchmarks.sampling_side import choose_work, measure_side, parse_side_arguments
from benchmarks.sampling_work import Work, read_prompts

MODES = ("compiled", "eager")


class VllmSide:
    """Draws with vLLM's offline engine."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        from vllm import LLM

        work = choose_work(arguments)
        self.prompts = read_prompts(arguments.folder, work)
        self.llm = LLM(
            model=str(arguments.folder / arguments.model),
            dtype="bfloat16",
            max_model_len=max(map(len, self.prompts)) + work.new_tokens,
            enforce_eager=arguments.mode == "eager",
            max_num_seqs=min(work.rows, work.sequences),
        )

    def draw(self, work: Work, seed: int) -> int:
        """Draw a work and return its tokens."""
        from vllm import SamplingParams

        self.llm.reset_prefix_cache()
        prompts, settings = [], []
        del seed  # a seed of its own for each request would slow its sampling down
        for ids, lengths in zip(self.prompts, work.list_lengths(), strict=True):
            groups = [(1, length) for length in lengths] if work.is_mixed else [(work.samples, work.new_tokens)]
            for count, length in groups:
                prompts.append({"prompt_token_ids": ids})
                settings.append(SamplingParams(n=count, temperature=1.0, max_tokens=length, ignore_eos=True))
        outputs = self.llm.generate(prompts, settings, use_tqdm=False)
        return sum(len(sample.token_ids) for output in outputs for sample in output.outputs)


def main() -> None:
    arguments = parse_side_arguments(__doc__, MODES)
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    os.environ["VLLM_LOGGING_STREAM"] = "ext://sys.stderr"  # the last line of stdout is the record

    import vllm

    side = VllmSide(arguments)
    name = "vllm" if arguments.mode == "compiled" else "vllm-eager"
    record = measure_side(
        name, arguments, side.draw, {"vllm": vllm.__version__}, find_peak_memory=peak_memory_of_tree_bytes
    )
    print("\n" + record.to_line(), flush=True)


if __name__ == "__main__":
    main()
