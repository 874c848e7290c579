"""Every published benchmark by name."""

from __future__ import annotations

import re

from posttrain.core.config import suggest
from posttrain.core.errors import RecipeError
from posttrain.evaluation.benchmark import Benchmark
from posttrain.evaluation.suites.bbh import BBH
from posttrain.evaluation.suites.bbq import BBQ
from posttrain.evaluation.suites.behaviours import BEHAVIOURS
from posttrain.evaluation.suites.bfcl import BFCL
from posttrain.evaluation.suites.foundry import (
    ARC_CHALLENGE,
    ARC_EASY,
    BOOLQ,
    COMMONSENSE_QA,
    COPA,
    OPENBOOKQA,
    PIQA,
    SIQA,
)
from posttrain.evaluation.suites.gsm8k import GSM8K
from posttrain.evaluation.suites.harmful_requests import HARMBENCH, STRONGREJECT
from posttrain.evaluation.suites.hellaswag import HELLASWAG
from posttrain.evaluation.suites.humaneval import HUMANEVAL
from posttrain.evaluation.suites.ifeval import IFBENCH, IFEVAL
from posttrain.evaluation.suites.lambada import LAMBADA
from posttrain.evaluation.suites.math500 import MATH500
from posttrain.evaluation.suites.mbpp import MBPP, MBPP_ALL, MBPP_SANITIZED
from posttrain.evaluation.suites.mmlu import MMLU
from posttrain.evaluation.suites.svamp import SVAMP
from posttrain.evaluation.suites.truthfulqa import TRUTHFULQA_MC1, TRUTHFULQA_MC2
from posttrain.evaluation.suites.winogrande import WINOGRAD, WINOGRANDE
from posttrain.evaluation.suites.xstest import XSTEST

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        GSM8K, MATH500, SVAMP, BBH, MMLU, ARC_EASY, ARC_CHALLENGE, OPENBOOKQA, COMMONSENSE_QA, HELLASWAG, PIQA, SIQA,
        COPA, WINOGRANDE, WINOGRAD, BOOLQ, LAMBADA, TRUTHFULQA_MC1, TRUTHFULQA_MC2, HUMANEVAL, MBPP, MBPP_ALL,
        MBPP_SANITIZED, IFEVAL, IFBENCH, BFCL, XSTEST, HARMBENCH, STRONGREJECT, BBQ, BEHAVIOURS,
    )
}  # fmt: skip
"""In the order of docs/suites.md."""

_WRITTEN = re.compile(r"(?P<name>[^@]*)(?:@(?P<version>\d{1,9}))?")


def find_benchmark(name: str) -> Benchmark:
    """Return a benchmark by its name, with or without the version that is meant: `gsm8k`, `gsm8k@1`.

    Raises:
        RecipeError: No such benchmark, or another version of it.
    """
    written = _WRITTEN.fullmatch(name.strip())
    known = BENCHMARKS.get(written["name"]) if written else None
    if written is None or known is None:
        raise RecipeError(
            f"a benchmark {name!r}"[:200],
            expected="the name of one, or name@version; docs/suites.md lists them",
            cure=suggest(name.partition("@")[0], BENCHMARKS),
            place="benchmark",
        )
    if written["version"] is not None and int(written["version"]) != known.version:
        raise RecipeError(
            f"version {int(written['version'])} of {known.name}",
            expected=f"version {known.version}, the one that there is",
            cure=f"write {known.name}@{known.version}, and measure anew what is to be compared with it",
            place="benchmark",
        )
    return known
