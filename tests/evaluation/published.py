"""Reads whole published files through the readers of `evaluation/suites`, and judges answers to their rows."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.core.records import Completion, Outcome, Problem
from posttrain.data.rows import RawRow
from posttrain.data.schemas import read_example
from posttrain.data.sources import DataSource, open_rows
from posttrain.evaluation.benchmark import Benchmark, PublishedFile
from posttrain.pipeline.scorers import ScorerContext, build_scorer
from posttrain.pipeline.task_rows import build_problem

_IDS = np.zeros(1, dtype=np.int32)


def open_raw(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a published file; a bad one fails the test."""
    for row in open_rows(DataSource(source=str(path)), root=path.parent):
        assert isinstance(row, RawRow), row
        yield row.values


def open_file(path: Path) -> PublishedFile:
    """Return what a reader is told of a file."""

    @functools.cache
    def read_beside(name: str) -> Sequence[Mapping[str, Any]]:
        return list(open_raw(path.parent / name))

    return PublishedFile(path.name.split(".")[0], read_beside)


def read_rows(benchmark: Benchmark, folder: Path, part: str = "test") -> list[dict[str, Any]]:
    """Return all rows of a part of a benchmark, from the first of its paths that there is."""
    path = next(folder / name for name in benchmark.files[part] if (folder / name).is_file())
    file = open_file(path)
    return [read for row in open_raw(path) for read in benchmark.read_row(row, file)]


def read_problems(benchmark: Benchmark, folder: Path, part: str = "test") -> list[Problem]:
    """Return all rows of a part as problems, as a task would see them."""
    source = DataSource(source=part)
    rows = read_rows(benchmark, folder, part)
    return [build_problem(read_example(row, source, f"{part}:{number}")) for number, row in enumerate(rows, 1)]


def complete(problem: Problem, text: str) -> tuple[Problem, Completion]:
    """Return a problem with a completion that stopped by itself."""
    return problem, Completion(problem.problem_id, 0, _IDS, _IDS, text, "stop", "none", 0)


def score(benchmark: Benchmark, items: Iterable[tuple[Problem, str]]) -> list[Outcome]:
    """Return what a benchmark's scorer says of texts."""
    scorer = build_scorer(benchmark.settings["scorer"], ScorerContext(place=benchmark.name))
    try:
        return list(scorer.score([complete(problem, text) for problem, text in items]))
    finally:
        close = getattr(scorer, "close", None)
        if close is not None:
            close()


def find_missed(benchmark: Benchmark, items: Sequence[tuple[Problem, str]], value: float) -> list[tuple[str, Outcome]]:
    """Return the texts that are not worth a value, with what was said of them."""
    outcomes = score(benchmark, items)
    pairs = zip(items, outcomes, strict=True)
    return [(text, outcome) for (_, text), outcome in pairs if outcome.value != value or not outcome.is_counted]
