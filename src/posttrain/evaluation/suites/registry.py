"""The published benchmarks by name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from posttrain.core.config import suggest
from posttrain.core.errors import RecipeError
from posttrain.evaluation.benchmark import Benchmark, PublishedFile

_ANSWER = re.compile(r"####\s*(\S.*)")


def _read_gsm8k(row: Mapping[str, Any], file: PublishedFile) -> Iterator[dict[str, Any]]:
    found = _ANSWER.search(row["answer"])
    if found is None:
        raise ValueError("the answer has no line '#### <number>'")
    yield {"prompt": row["question"], "completion": row["answer"], "answer": found.group(1).replace(",", "")}


def _read_mmlu(row: Mapping[str, Any], file: PublishedFile) -> Iterator[dict[str, Any]]:
    answer = row["answer"]
    yield {
        "prompt": row["question"],
        "choices": {"text": row["choices"], "label": [0, 1, 2, 3]},
        "answer": answer if isinstance(answer, int) else "ABCD".index(answer),
        "subject": row["subject"],
    }


def _read_arc(row: Mapping[str, Any], file: PublishedFile) -> Iterator[dict[str, Any]]:
    choices = row["choices"]
    labels = [str(place) for place in range(len(choices))]
    yield {"prompt": row["query"] + "\nAnswer:", "choices": {"text": choices, "label": labels}, "answer": row["gold"]}


_ALL = (
    Benchmark(
        name="gsm8k",
        version=1,
        about="school word problems; right is the number",
        source="Cobbe et al. 2021 (arXiv 2110.14168)",
        licence="MIT",
        settings={"scorer": "math", "max_new_tokens": 512},
        read_row=_read_gsm8k,
        files={"test": ("math/gsm8k_test.jsonl", "gsm8k_test.jsonl")},
        hub={"test": ("hub:openai/gsm8k:main", "test")},
    ),
    Benchmark(
        name="mmlu",
        version=1,
        about="57 subjects, four choices; the letter that is likeliest",
        source="Hendrycks et al. 2021 (arXiv 2009.03300)",
        licence="MIT",
        settings={"type": "choice", "options": "letters", "normalisation": "sum"},
        read_row=_read_mmlu,
        files={"test": ("gates/mmlu_test.jsonl", "mmlu_test.jsonl")},
        hub={"test": ("hub:cais/mmlu:all", "test")},
    ),
    Benchmark(
        name="arc_easy",
        version=1,
        about="school science, the easy part; the text that is likeliest",
        source="Clark et al. 2018 (arXiv 1803.05457)",
        licence="CC BY-SA 4.0",
        settings={"type": "choice", "normalisation": "byte"},
        read_row=_read_arc,
        files={"test": ("gates/arc_easy.jsonl", "arc_easy.jsonl")},
    ),
)

BENCHMARKS: dict[str, Benchmark] = {one.name: one for one in _ALL}


def find_benchmark(name: str) -> Benchmark:
    """Return a benchmark by name, or by name and version (`gsm8k@1`).

    Raises:
        RecipeError: There is none of this name, or it has another version.
    """
    known, _, version = name.partition("@")
    if known not in BENCHMARKS:
        raise RecipeError(
            f"no benchmark is called '{known}'",
            expected="the name of a benchmark: posttrain eval --list",
            cure=suggest(known, BENCHMARKS),
            place="benchmark",
        )
    found = BENCHMARKS[known]
    if version and version != str(found.version):
        raise RecipeError(
            f"'{known}' has the version {found.version}, not {version}",
            expected=f"{known}@{found.version}",
            cure=f"write {known}@{found.version}; its numbers do not compare with those of another version",
            place="benchmark",
        )
    return found
