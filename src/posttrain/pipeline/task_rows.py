"""The rows of a task as problems: read in our form or a benchmark's, kept on disk, shown as they are asked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, time
from typing import Any

from posttrain.core.errors import DataError
from posttrain.core.hashing import hash_bytes
from posttrain.core.records import Example, Problem
from posttrain.data.examples import check_bad_fraction, iterate_examples
from posttrain.data.ledger import Ledger
from posttrain.data.sources import DataSource
from posttrain.evaluation.perplexity import DOCUMENT
from posttrain.evaluation.problem_store import ProblemView, StoredProblems
from posttrain.evaluation.shots import Shots, show_problem
from posttrain.evaluation.task import ChoiceTask, GenerationTask, PerplexityTask
from posttrain.lab.source import lab_rows
from posttrain.pipeline.benchmark_rows import read_published
from posttrain.pipeline.roots import Roots

CLUSTER_COLUMN = "cluster_id"
"""Rows that share this column's value are not independent."""


def read_problems(
    roots: Roots,
    source: DataSource,
    *,
    are_texts: bool = False,
    benchmark: str | None = None,
    ledger: Ledger | None = None,
) -> StoredProblems:
    """Return a source's rows as problems (`build_problem`), which are kept on disk; paths start at the roots.

    Args:
        roots: Where the source's path may lead.
        source: The rows.
        are_texts: Whether documents, which have no prompt, are asked for too.
        benchmark: In whose published form the rows stand; None: in one of ours.
        ledger: Counts what became of the rows: bad ones that `max_bad_fraction` allows are no problems.

    Raises:
        DataError: The rows cannot be read, or have no prompt.
    """
    counted = Ledger() if ledger is None else ledger
    return StoredProblems(_iterate_problems(roots, source, are_texts, benchmark, counted))


def _iterate_problems(
    roots: Roots, source: DataSource, are_texts: bool, benchmark: str | None, ledger: Ledger
) -> Iterator[Problem]:
    path = roots.locate(source.source, place=source.source)
    located = source if path is None else source.model_copy(update={"source": str(path)})
    located, reader = read_published(benchmark, located, roots)
    for example in iterate_examples(located, ledger, root=roots.base, row_source=lab_rows, reader=reader):
        ledger.train(samples=1, tokens=0, tokens_trained=0)
        problem = build_problem(example)
        if not problem.messages and not are_texts:
            raise DataError(
                "the row has no prompt",
                expected="a prompt to answer: messages, or a prompt with a completion",
                cure="choose another source for the task",
                place=problem.problem_id,
            )
        yield problem
    check_bad_fraction(located, ledger)
    ledger.check_balance()


def read_task_problems(
    roots: Roots,
    task: GenerationTask | ChoiceTask | PerplexityTask,
    source: DataSource,
    *,
    are_shown: bool = True,
    ledger: Ledger | None = None,
) -> Sequence[Problem]:
    """Return the problems of a task in one of its sources, as they are asked.

    Args:
        roots: Where paths may lead.
        task: Says in which form rows stand, and what is shown before and around a question.
        source: The task's `data` or `development`.
        are_shown: Whether examples stand before the questions and plain text is joined; else they are bare.
        ledger: Counts what became of the source's rows.

    Raises:
        DataError: The rows cannot be read or have no prompt, or there are too few examples.
    """
    are_texts = isinstance(task, PerplexityTask)
    problems = read_problems(roots, source, are_texts=are_texts, benchmark=task.benchmark, ledger=ledger)
    if isinstance(task, PerplexityTask) or not are_shown or (not task.shots and task.form == "chat"):
        return problems
    shots = read_shots(roots, task)
    return ProblemView(problems, show=lambda problem: show_problem(task, problem, shots))


def read_shots(roots: Roots, task: GenerationTask | ChoiceTask) -> Shots | None:
    """Return what gives a task's questions their examples, None where it has none.

    Raises:
        DataError: The rows cannot be read, or one has no answer to show.
    """
    if not task.shots or task.shots_from is None:
        return None
    return Shots(task, read_problems(roots, task.shots_from, benchmark=task.benchmark))


def build_problem(example: Example) -> Problem:
    """Return a row as a problem: its prompt, the columns for scorers, and the cluster that a column names.

    The text it ends with is its reply, and the answer unless a column `answer` is there. A document is a problem
    without messages, its text in the column `text`. Cells have a form in JSON, as items and hashes need
    (`normalise_cell`); a cluster that is null is none.
    """
    messages: list[Any] = normalise_cell(list(example.messages))
    columns: dict[str, Any] = normalise_cell(dict(example.columns))
    tools = normalise_cell(example.tools)
    reply: str | None = None
    while messages and messages[-1]["role"] == "assistant":
        last = messages.pop()
        if isinstance(last.get("content"), str):
            reply = last["content"]
            columns.setdefault("answer", reply)
    if example.kind == "text":
        columns[DOCUMENT] = example.text
    cluster = columns.get(CLUSTER_COLUMN)
    return Problem(example.row_id, messages, columns, tools, "" if cluster is None else str(cluster), reply)


def normalise_cell(value: Any) -> Any:
    """Return a value of a row as JSON can hold it; what is JSON already is as it was.

    NaN and infinity are null, dates and times ISO 8601 text, bytes their hash, and anything else its text.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): normalise_cell(part) for name, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        parts = sorted(value, key=repr) if isinstance(value, set | frozenset) else value
        return [normalise_cell(part) for part in parts]
    if isinstance(value, date | time):  # a datetime is a date
        return value.isoformat()
    return f"bytes:{hash_bytes(bytes(value))}" if isinstance(value, bytes | bytearray) else str(value)
