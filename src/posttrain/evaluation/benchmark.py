"""Published benchmarks: what a task of one is, and how a row of its published files becomes rows of ours.

Each has one small file in `suites/` that ends in a `Benchmark`. A task names it, and what the task does not say itself
(type, scorer, lengths) is the benchmark's:

    evaluate:
      - {name: maths, benchmark: gsm8k, data: {source: gsm8k_test.jsonl}}
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """The file that a row comes from: made where rows are read, asked by a benchmark's `read_row`.

    `stem` is its name without endings (`navigate` of `bbh/navigate.json`). `read_beside("cot-prompts/navigate.txt")`
    gives the rows of another file, by its path from the folder of this one; a text file is one row with the column
    `text`.
    """

    stem: str
    read_beside: Callable[[str], Sequence[Mapping[str, Any]]]


RowReader = Callable[[Mapping[str, Any], PublishedFile], Iterable[dict[str, Any]]]
"""Maps one published row to our rows: none, one, or several (a file that is one object with a list, say).

A row has `prompt` (a text or messages) and the columns that the task's type and scorer read (`answer`, `choices`, ...);
`cluster_id` where rows share a source.
"""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One published benchmark; `settings` are keys of a task, `files` where its parts lie.

    Args:
        name: What a task calls it.
        version: Raised whenever rows or settings change, so that numbers of two versions do not compare.
        about: One line: what is asked, and what counts as right.
        source: Who published it, with the paper.
        licence: Of the rows.
        settings: Keys of the task that are not the defaults: `{"scorer": "math", "max_new_tokens": 512}`.
        read_row: Reads a published row.
        files: Parts by name, each with the paths that its file is known by, below a folder of data. A benchmark
            of one part calls it `test`.
        hub: Parts by name as `(hub:<id> or hub:<id>:<subset>, split)`, whose rows have the same columns.

    Example: `gsm8k` has `files={"test": ("math/gsm8k_test.jsonl", "gsm8k_test.jsonl")}` and
    `hub={"test": ("hub:openai/gsm8k:main", "test")}`.
    """

    name: str
    version: int
    about: str
    source: str
    licence: str
    settings: Mapping[str, Any]
    read_row: RowReader
    files: Mapping[str, Sequence[str]]
    hub: Mapping[str, tuple[str, str]] = field(default_factory=dict)
