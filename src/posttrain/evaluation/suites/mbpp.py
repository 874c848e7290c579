"""MBPP: short Python problems written by crowd workers, each with three assertions, which the prompt shows.

Austin et al. 2021, "Program Synthesis with Large Language Models", arXiv 2108.07732 (google-research/mbpp, CC BY 4.0).
A row as published; the sanitized rows say `prompt` for `text` and have `test_imports`:

    {"text": "Write a function to double a number.", "code": "def double(x):\\r\\n  return 2 * x", "task_id": 11,
     "test_setup_code": "", "test_list": ["assert double(2) == 4", ...], "challenge_test_list": []}

Right is a reply whose program passes the three assertions. `mbpp` is the published test, problems 11 to 510 of the
974; `mbpp_all` has all of them, of which 601 to 974 are for training; `mbpp_sanitized` the 257 of the test that the
authors looked through.

Traps: the prompt shows what is tested, so that a table of the three answers passes. Some problems can not be understood
without the assertions. Two problems (367 and 927) are left out: their tests build objects of a class that the program
is to define, and a judge outside the program's process has no such class; so `mbpp` has 499 rows. One reference takes
more than two seconds, hence the limit. The authors' three solved examples are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from posttrain.evaluation.benchmark import Benchmark, PublishedFile
from posttrain.evaluation.suites.reading import mark_leaks, take_text, take_texts, take_whole

FIRST_TEST, LAST_TEST = 11, 510
"""The task ids of the published test."""


def read_any(row: Mapping[str, Any], file: PublishedFile) -> Iterable[dict[str, Any]]:
    """Yield a problem with its assertions; nothing for one whose tests need a class of the program's."""
    del file
    tests = take_texts(row, "test_list")
    if row["test_setup_code"]:
        return
    told = take_text(row, "text").strip()
    yield {**_ask(told, tests, take_text(row, "code")), "task_id": take_whole(row, "task_id")}


def read_test(row: Mapping[str, Any], file: PublishedFile) -> Iterable[dict[str, Any]]:
    """Return a problem of the published test, nothing for the others."""
    return read_any(row, file) if FIRST_TEST <= take_whole(row, "task_id") <= LAST_TEST else ()


def read_sanitized(row: Mapping[str, Any], file: PublishedFile) -> Iterable[dict[str, Any]]:
    """Return a sanitized problem with its assertions."""
    del file
    imports = row.get("test_imports") or []
    if not isinstance(imports, list) or not all(isinstance(line, str) for line in imports):
        raise TypeError(f"'test_imports' is {imports!r:.80}, not a list of texts")
    asked = _ask(take_text(row, "prompt").strip(), take_texts(row, "test_list"), take_text(row, "code"))
    yield {**asked, "test_imports": imports}


def _ask(told: str, tests: list[str], code: str) -> dict[str, Any]:
    """Return the authors' prompt with the problem's assertions, and the columns that the scorer reads."""
    shown = "\n".join(test.strip() for test in tests)
    prompt = (
        f"You are an expert Python programmer, and here is your task: {told} "
        f"Your code should pass these tests:\n\n{shown}\n\nAnswer with the program in one code block."
    )
    solution = f"```python\n{code.strip()}\n```"
    return {"prompt": prompt, "test_list": tests, "solution": solution, **mark_leaks(told, [code])}


_SOURCE = "Austin et al. 2021, arXiv 2108.07732"
_SETTINGS = {"scorer": {"type": "code", "cpu_seconds": 10.0, "wall_seconds": 60.0}, "max_new_tokens": 512}
_FILES = ("code/mbpp.jsonl", "mbpp.jsonl")

MBPP = Benchmark(
    name="mbpp",
    version=1,
    about="short Python problems; the program passes the three assertions of its prompt",
    source=_SOURCE,
    licence="CC BY 4.0",
    settings=_SETTINGS,
    read_row=read_test,
    files={"test": _FILES},
    hub={"test": ("hub:google-research-datasets/mbpp:full", "test")},
)
MBPP_ALL = Benchmark(
    name="mbpp_all",
    version=1,
    about="all of MBPP, its training problems too; the program passes the three assertions of its prompt",
    source=_SOURCE,
    licence="CC BY 4.0",
    settings=_SETTINGS,
    read_row=read_any,
    files={"test": _FILES},
)
MBPP_SANITIZED = Benchmark(
    name="mbpp_sanitized",
    version=1,
    about="MBPP's test as its authors looked it through; the program passes the assertions of its prompt",
    source=_SOURCE,
    licence="CC BY 4.0",
    settings=_SETTINGS,
    read_row=read_sanitized,
    files={"test": ("code/mbpp_sanitized_test.jsonl", "mbpp_sanitized_test.jsonl")},
    hub={"test": ("hub:google-research-datasets/mbpp:sanitized", "test")},
)
