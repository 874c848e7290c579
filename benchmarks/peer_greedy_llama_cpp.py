"""Greedy completions by llama.cpp, in an environment of its own; imports nothing of this project's package.

    <its environment>/bin/python -m benchmarks.peer_greedy_llama_cpp --model FILE.gguf --work work.json --out FILE

Keys and values are kept in 32 bits: llama.cpp's own default is 16.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from benchmarks.parity_work import Answers, Work, parse_peer_arguments, read_work, write_record

_F32 = 0  # GGML_TYPE_F32


def draw(llama: Any, prompt: Sequence[int], work: Work) -> list[int]:
    """Return the ids that follow a prompt, without the stop token."""
    drawn: list[int] = []
    llama.reset()
    for token in llama.generate(prompt, temp=0.0, repeat_penalty=1.0):
        if token in work.stop_ids:
            break
        drawn.append(token)
        if len(drawn) == work.max_new_tokens:
            break
    return drawn


def main() -> None:
    arguments = parse_peer_arguments(__doc__)

    import llama_cpp

    work = read_work(arguments.work)
    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
    llama = llama_cpp.Llama(
        str(arguments.model),
        n_ctx=work.context_tokens,
        n_threads=threads,
        n_threads_batch=threads,
        type_k=_F32,
        type_v=_F32,
        verbose=False,
    )

    def cut(text: str) -> list[int]:
        return list(llama.tokenize(text.encode(), add_bos=False, special=True))

    completions = [draw(llama, ids, work) for ids in work.prompt_ids]
    texts = [llama.detokenize(ids, special=True).decode(errors="replace") for ids in completions]
    engine = f"llama.cpp (llama-cpp-python {llama_cpp.__version__})"
    answers = Answers(engine, [*map(cut, work.texts)], [*map(cut, work.prompt_texts)], completions, texts)
    write_record(answers, arguments.out)


if __name__ == "__main__":
    main()
