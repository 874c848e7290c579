'''HumanEval: 164 Python functions to complete from their signature and docstring, judged by hidden tests.

Chen et al. 2021, "Evaluating Large Language Models Trained on Code", arXiv 2107.03374 (openai/human-eval, MIT). A row
as published:

    {"task_id": "HumanEval/7", "prompt": "def double(x):\\n    """ Twice x. """\\n", "entry_point": "double",
     "canonical_solution": "    return 2 * x\\n",
     "test": "def check(candidate):\\n    assert candidate(2) == 4\\n"}

Right is a reply whose program passes all tests: the whole function in a code block, or the lines that go on after the
prompt. pass@k of more samples: set `temperature`, `num_samples` and `pass_at` (the authors: 0.2 for pass@1, 0.8 for
pass@100).

Traps: some tests are few, so that wrong programs pass (Liu et al. 2023, arXiv 2305.01210). Solutions are all over the
web. Programs run in a sandbox, whose limits decide what is too slow.
'''

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from posttrain.evaluation.benchmark import Benchmark, PublishedFile
from posttrain.evaluation.suites.reading import mark_leaks, take_text

ASKED_FORM = "Complete this Python function. Answer with the whole function in one code block."


def read_row(row: Mapping[str, Any], file: PublishedFile) -> Iterable[dict[str, Any]]:
    """Return the function's beginning with its tests."""
    del file
    prompt = take_text(row, "prompt")
    yield {
        "prompt": f"{ASKED_FORM}\n\n```python\n{prompt.strip()}\n```",
        "code_prompt": prompt,
        "entry_point": take_text(row, "entry_point"),
        "test": take_text(row, "test"),
        "task_id": take_text(row, "task_id"),
        "solution": f"```python\n{prompt.strip()}\n{take_text(row, 'canonical_solution').rstrip()}\n```",
        **mark_leaks(prompt, [take_text(row, "canonical_solution")]),
    }


HUMANEVAL = Benchmark(
    name="humaneval",
    version=1,
    about="Python functions from their docstrings; the program passes all hidden tests",
    source="Chen et al. 2021, arXiv 2107.03374",
    licence="MIT",
    settings={"scorer": {"type": "code", "cpu_seconds": 10.0, "wall_seconds": 60.0}, "max_new_tokens": 768},
    read_row=read_row,
    files={"test": ("code/humaneval.jsonl.gz", "HumanEval.jsonl.gz", "humaneval.jsonl")},
    hub={"test": ("hub:openai/openai_humaneval", "test")},
)
