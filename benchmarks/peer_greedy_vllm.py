"""Greedy completions by vLLM, in an environment of its own; imports nothing of this project's package.

<its environment>/bin/python -m benchmarks.peer_greedy_vllm --model FOLDER --work work.json --out answers.json
"""

from __future__ import annotations

import os
from typing import Any

from benchmarks.parity_work import Answers, Work, cut_at_stop, parse_peer_arguments, read_work, write_record


def draw(llm: Any, work: Work) -> tuple[list[list[int]], list[str]]:
    """Return the ids and texts that follow each prompt, without the stop token."""
    from vllm import SamplingParams

    settings = SamplingParams(
        temperature=0.0, max_tokens=work.max_new_tokens, stop_token_ids=work.stop_ids, skip_special_tokens=False
    )
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in work.prompt_ids], settings, use_tqdm=False)
    samples = [output.outputs[0] for output in outputs]
    return [cut_at_stop(sample.token_ids, work.stop_ids) for sample in samples], [sample.text for sample in samples]


def main() -> None:
    arguments = parse_peer_arguments(__doc__)
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")

    import vllm

    work = read_work(arguments.work)
    llm = vllm.LLM(model=str(arguments.model), dtype=work.dtype, max_model_len=work.context_tokens, enforce_eager=True)
    tokenizer = llm.get_tokenizer()
    ids, texts = draw(llm, work)

    def cut(text: str) -> list[int]:
        return [int(token) for token in tokenizer.encode(text, add_special_tokens=False)]

    engine = f"vLLM {vllm.__version__}"
    answers = Answers(engine, [*map(cut, work.texts)], [*map(cut, work.prompt_texts)], ids, texts)
    write_record(answers, arguments.out)


if __name__ == "__main__":
    main()
