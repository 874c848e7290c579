"""The same model folder in four engines: the same prompt ids, and the same greedy text.

    python -m benchmarks.greedy_parity my-model --prompts lab:conversations --rows 50 \\
        --vllm-python .vllm/bin/python --llama-cpp .llama-cpp

Prompts are rendered by this project's renderer with the folder's chat template, or the plain one. Its ids are what
every engine draws from, and what every engine has to cut the rendered text into. The reference for completions is
transformers' `generate`; beside it stand this project's engine, vLLM, and llama.cpp after its own converter. Raw
texts of every kind (`benchmarks.parity_work`) and the prompts' own are cut too.

Prints a table. Exits with 1 where ids differ, or where completions part and the reference holds the two tokens to be
further apart than the tolerance. `tools/install_vllm_cpu.sh` and `tools/install_llama_cpp.sh` make the environments.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.parity_tables import FindGap, compare_answers, format_table
from benchmarks.parity_work import TEXT_KINDS, Answers, Work, cut_at_stop, read_answers, write_record

if TYPE_CHECKING:
    from posttrain.core.records import Problem
    from posttrain.pipeline.talking import Talker

TOLERANCE_NATS = {"float32": 1e-3, "bfloat16": 0.1}
"""Gaps that rounding bridges; of bfloat16, whose logits have 8 bits, a step at a logit of 16 is 0.06."""

_GGUF_TYPES = {"float32": "f32", "bfloat16": "bf16"}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a plain folder in Hugging Face format")
    parser.add_argument("--prompts", required=True, help="rows with a prompt: a file, or lab:<set>")
    parser.add_argument("--rows", type=int, help="take only so many prompts")
    parser.add_argument("--vllm-python", help="the Python of an environment with vLLM; none: leave it out")
    parser.add_argument("--llama-cpp", type=Path, help="what tools/install_llama_cpp.sh made; none: leave it out")
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("--dtype", choices=sorted(TOLERANCE_NATS), default="float32", help="what all compute in")
    parser.add_argument("--tolerance", type=float, help="in nats; default: 1e-3 in float32, 0.1 in bfloat16")
    return parser.parse_args()


def build_work(talker: Talker, problems: Sequence[Problem], tokenizer: Any, arguments: argparse.Namespace) -> Work:
    """Return the work: the prompts as text and ids, raw texts, what ends a completion."""
    prompts = talker.renderer.render_prompts([(problem.messages, problem.tools) for problem in problems])
    texts = [
        tokenizer.apply_chat_template(
            problem.messages,
            tools=problem.tools,
            chat_template=talker.renderer.format.template,
            add_generation_prompt=True,
            tokenize=False,
        )
        for problem in problems
    ]
    contents = [str(message["content"]) for problem in problems for message in problem.messages]
    return Work(
        [*TEXT_KINDS.values(), *contents],
        texts,
        [ids.tolist() for ids in prompts],
        list(talker.renderer.format.stop_ids),
        arguments.max_new_tokens,
        arguments.dtype,
    )


def name_texts(work: Work) -> list[str]:
    """Return a name for each text of the work."""
    return [*TEXT_KINDS, *["messages of the prompts"] * (len(work.texts) - len(TEXT_KINDS))]


def draw_own(talker: Talker, problems: Sequence[Problem], work: Work) -> Answers:
    """Return the answers of this project's engine."""
    import posttrain
    from posttrain.core.sampling import SamplingSettings

    settings = SamplingSettings(work.max_new_tokens, temperature=0.0)
    drawn = dict(talker.sampler.sample(problems, settings, [0] * len(problems)))
    completions = [drawn[index] for index in range(len(problems))]
    tokenizer = talker.renderer.tokenizer
    return Answers(
        f"posttrain {posttrain.__version__}",
        [tokenizer.encode_with_offsets(text)[0] for text in work.texts],
        [tokenizer.encode_with_offsets(text)[0] for text in work.prompt_texts],
        [cut_at_stop(completion.ids.tolist(), work.stop_ids) for completion in completions],
        [completion.text for completion in completions],
    )


def draw_plainly(model: Any, tokenizer: Any, work: Work) -> Answers:
    """Return the answers of transformers, one prompt at a time: nothing is padded."""
    import torch
    import transformers

    completions = []
    for ids in work.prompt_ids:
        rows = torch.tensor([ids])
        output = model.generate(
            rows,
            attention_mask=torch.ones_like(rows),
            do_sample=False,
            max_new_tokens=work.max_new_tokens,
            eos_token_id=work.stop_ids,
            pad_token_id=work.stop_ids[0],
        )
        completions.append(cut_at_stop(output[0, len(ids) :].tolist(), work.stop_ids))
    return Answers(
        f"transformers {transformers.__version__}",
        [tokenizer.encode(text, add_special_tokens=False) for text in work.texts],
        [tokenizer.encode(text, add_special_tokens=False) for text in work.prompt_texts],
        completions,
        [tokenizer.decode(ids, skip_special_tokens=False) for ids in completions],
    )


def build_gap_finder(model: Any, work: Work) -> FindGap:
    """Return what asks the reference how far apart two tokens are; any stop token stands for the likeliest of them."""
    import torch

    @torch.inference_mode()
    def find_gap(prompt: int, following: Sequence[int], one: int, two: int) -> float:
        logits_V = model(torch.tensor([[*work.prompt_ids[prompt], *following]])).logits[0, -1].double()
        one_ids, two_ids = (work.stop_ids if token in work.stop_ids else [token] for token in (one, two))
        return float(logits_V[one_ids].max() - logits_V[two_ids].max())

    return find_gap


def draw_elsewhere(python: str, module: str, model: Path, folder: Path) -> Answers:
    """Return a peer's answers, from a process of its own environment."""
    out = folder / f"{module}.json"
    command = [python, "-m", f"benchmarks.{module}", "--model", str(model)]
    command += ["--work", str(folder / "work.json"), "--out", str(out)]
    run_quietly(command)
    return read_answers(out)


def convert(llama_cpp: Path, model: Path, dtype: str, folder: Path) -> Path:
    """Return the model as llama.cpp's converter writes it."""
    target = folder / "model.gguf"
    command = [str(llama_cpp / "bin/python"), str(llama_cpp / "llama.cpp/convert_hf_to_gguf.py"), str(model)]
    run_quietly([*command, "--outfile", str(target), "--outtype", _GGUF_TYPES[dtype]])
    return target


def run_quietly(command: Sequence[str]) -> None:
    """Run a command; what it says is shown where it fails.

    Raises:
        SystemExit: It fails.
    """
    # Its own packages and this repository's root alone: another environment's would be taken before them.
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{done.stdout[-20_000:]}\nfailed with {done.returncode}: {' '.join(command)}")


def draw_everywhere(arguments: argparse.Namespace, folder: Path) -> tuple[Work, Answers, list[Answers], FindGap]:
    """Return the work, the reference's answers, those of the others, and what measures gaps."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from posttrain.pipeline.sample_run import read_problems
    from posttrain.pipeline.talking import ModelChoice, open_talker

    problems = read_problems((), arguments.prompts, system=None, is_raw=False)[: arguments.rows]
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    with open_talker(ModelChoice(str(arguments.model.resolve()), arguments.dtype, "cpu")) as talker:
        work = build_work(talker, problems, tokenizer, arguments)
        others = [draw_own(talker, problems, work)]
    write_record(work, folder / "work.json")
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=getattr(torch, arguments.dtype)).eval()
    reference = draw_plainly(model, tokenizer, work)
    if arguments.vllm_python:
        others.append(draw_elsewhere(arguments.vllm_python, "peer_greedy_vllm", arguments.model.resolve(), folder))
    if arguments.llama_cpp:
        converted = convert(arguments.llama_cpp, arguments.model.resolve(), arguments.dtype, folder)
        python = str(arguments.llama_cpp / "bin/python")
        others.append(draw_elsewhere(python, "peer_greedy_llama_cpp", converted, folder))
    return work, reference, others, build_gap_finder(model.float(), work)


def main() -> None:
    arguments = parse_arguments()
    tolerance = TOLERANCE_NATS[arguments.dtype] if arguments.tolerance is None else arguments.tolerance
    with tempfile.TemporaryDirectory() as name:
        work, reference, others, find_gap = draw_everywhere(arguments, Path(name))
    kinds = name_texts(work)
    comparisons = [compare_answers(work, kinds, reference, other, find_gap) for other in [reference, *others]]
    tokens = sum(map(len, reference.completion_ids))
    print(
        f"{len(work.prompt_ids)} prompts, {tokens:,} greedy tokens, {arguments.dtype}, tolerance {tolerance:g} nats\n"
    )
    print(format_table(comparisons))
    faults = [fault for comparison in comparisons for fault in comparison.list_faults(tolerance)]
    print("\n".join(["", *faults]) if faults else "\nall equal, but for ties within the tolerance")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
