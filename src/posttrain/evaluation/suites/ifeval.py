"""IFEval and IFBench: requests with instructions on form that a program can check.

Zhou et al. 2023, "Instruction-Following Evaluation for Large Language Models", arXiv 2311.07911
(google-research/instruction_following_eval, Apache-2.0): 541 requests, 25 kinds of instructions. Pyatkin et al. 2025,
"Generalizing Verifiable Instruction Following", arXiv 2507.02833 (allenai/IFBench; rows ODC-BY 1.0): 300 requests with
58 other kinds. A row as published, of both:

    {"key": 7, "prompt": "Name three rivers. Use no commas.",
     "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}

Right is a reply that follows all instructions, read strictly (`prompt_strict`); parts are `prompt_loose` and the counts
of followed instructions. Whether it answers the request is not asked.

Traps: a reply without reasoning taken off fails where reasoning holds a comma; a reply that is cut fails. Of IFBench
56 kinds are checked; the 15 rows with another one are `not_applicable` and left out (`scorers.instruction_bench`), so
that its number stands for 285 rows. Published numbers of IFBench are of the loose reading.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from posttrain.evaluation.benchmark import Benchmark, PublishedFile
from posttrain.evaluation.suites.reading import take_text, take_texts


def read_row(row: Mapping[str, Any], file: PublishedFile) -> Iterable[dict[str, Any]]:
    """Return the request with the columns that the scorer reads."""
    del file
    ids, arguments = take_texts(row, "instruction_id_list"), row["kwargs"]
    if not isinstance(arguments, list) or not all(isinstance(values, Mapping) for values in arguments):
        raise TypeError(f"'kwargs' is {arguments!r:.80}, not a list of objects")
    if len(arguments) != len(ids):
        raise ValueError(f"{len(ids)} instructions with arguments for {len(arguments)}")
    yield {
        "prompt": take_text(row, "prompt"),
        "key": row["key"],
        "instruction_id_list": ids,
        "kwargs": [{name: value for name, value in values.items() if value is not None} for values in arguments],
    }


_SETTINGS = {
    "scorer": "instructions",
    "max_new_tokens": 1280,
    "parts": ["prompt_loose", "followed_strict", "instructions"],
}

IFEVAL = Benchmark(
    name="ifeval",
    version=1,
    about="25 kinds of instructions that a program checks; all of a request's are followed, read strictly",
    source="Zhou et al. 2023, arXiv 2311.07911",
    licence="Apache-2.0",
    settings=_SETTINGS,
    read_row=read_row,
    files={"test": ("ifeval/ifeval_input_data.jsonl", "input_data.jsonl", "ifeval_input_data.jsonl")},
    hub={"test": ("hub:google/IFEval", "train")},
)
IFBENCH = Benchmark(
    name="ifbench",
    version=1,
    about="58 further kinds, of which 56 are checked; all of a request's are followed, read strictly",
    source="Pyatkin et al. 2025, arXiv 2507.02833",
    licence="ODC-BY 1.0",
    settings=_SETTINGS,
    read_row=read_row,
    files={"test": ("ifeval/ifbench_test.jsonl", "IFBench_test.jsonl", "ifbench_test.jsonl")},
    hub={"test": ("hub:allenai/IFBench_test", "train")},
)
