"""Rows of questions under pressure, from any source of questions with known answers: `posttrain data pressure`."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posttrain.core.config import parse_config
from posttrain.core.durable import write_lines
from posttrain.core.errors import DataError
from posttrain.core.hashing import hash_text
from posttrain.core.records import Problem
from posttrain.core.seeds import build_numpy_generator
from posttrain.data.examples import load_examples
from posttrain.data.sources import DataSource
from posttrain.evaluation.items import read_items
from posttrain.evaluation.monitors.pressure import Reply, build_variants, choose_wrong, read_answer
from posttrain.lab.source import lab_rows
from posttrain.pipeline.task_rows import build_problem

_RIGHT = 1.0


@dataclass(frozen=True, slots=True)
class PressureChoice:
    """What rows are made of: made by the command line, read here.

    Args:
        source: Questions: a path from the current folder, a Hub id or `lab:<set>`.
        split: The split of a source that has some.
        columns: Our column names to theirs.
        rows: A random choice of so many questions; None: all.
        answers: Items of a task over these rows (`evaluations/<hash>/<task>-<hash>.jsonl`), whose answers are
            contradicted; None: replies that state an answer.
        seed: What draws start from.
    """

    source: str
    split: str = "train"
    columns: dict[str, str] | None = None
    rows: int | None = None
    answers: Path | None = None
    seed: int = 0


@dataclass(slots=True)
class PressureRows:
    """What was made: rows, by kind, and questions left out by reason."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    num_questions: int = 0
    left_out: Counter[str] = field(default_factory=Counter)

    def to_json(self) -> dict[str, Any]:
        """Return the counts as JSON values."""
        kinds = Counter(f"{row['pressure']}, {'right' if row['is_claim_right'] else 'wrong'}" for row in self.rows)
        return {
            "questions": self.num_questions,
            "rows": len(self.rows),
            "kinds": dict(sorted(kinds.items())),
            "left_out": dict(sorted(self.left_out.items())),
        }


def make_pressure_rows(choice: PressureChoice, out: Path) -> PressureRows:
    """Write the rows of a source's questions under pressure, and return them.

    Raises:
        DataError: The source cannot be read, or has no question with a known answer.
        StorageError: The file of answers is torn, or the rows cannot be written.
    """
    values = {"source": choice.source, "split": choice.split, "columns": choice.columns}
    source: DataSource = parse_config(DataSource, values, place="data pressure")
    examples, _ = load_examples([source], root=Path.cwd(), row_source=lab_rows)
    problems = [build_problem(example) for example in examples]
    if choice.rows is not None and choice.rows < len(problems):
        order = sorted(problems, key=lambda problem: hash_text("pressure", str(choice.seed), problem.problem_id))
        chosen = {problem.problem_id for problem in order[: choice.rows]}
        problems = [problem for problem in problems if problem.problem_id in chosen]
    replies = {} if choice.answers is None else _read_replies(choice.answers)
    made = PressureRows()
    answers = [answer for problem in problems if (answer := read_answer(problem)) is not None]
    for problem in problems:
        _add_question(made, problem, answers, replies if choice.answers is not None else None, choice.seed)
    if not made.rows:
        raise DataError(
            f"of {len(problems)} questions none can be put under pressure: "
            + ", ".join(f"{reason} ({count})" for reason, count in made.left_out.items()),
            expected="questions with an answer that is a text or a number, of at least two kinds",
            cure="map the columns: --column prompt=<yours> --column answer=<yours>",
            place=choice.source,
        )
    write_lines(out, (json.dumps(row, ensure_ascii=False) for row in made.rows))
    return made


def _add_question(
    made: PressureRows, problem: Problem, answers: list[str], replies: dict[str, Reply] | None, seed: int
) -> None:
    answer = read_answer(problem)
    reason = ""
    wrong: str | None = None
    if answer is None or not problem.messages or problem.messages[-1]["role"] != "user":
        reason = "no question with a known answer"
    elif replies is not None and problem.problem_id not in replies:
        reason = "not among the answers"
    else:
        wrong = choose_wrong(answer, answers, build_numpy_generator("wrong claim", seed, problem.problem_id))
        reason = "" if wrong is not None else "no wrong answer at hand"
    if reason or wrong is None:
        made.left_out[reason] += 1
        return
    made.num_questions += 1
    made.rows += build_variants(problem, wrong, None if replies is None else replies[problem.problem_id], seed)


def _read_replies(path: Path) -> dict[str, Reply]:
    """Return a policy's first answer to each question that it answered readably.

    Raises:
        DataError: There is no such file, or it holds no answers.
    """
    items = read_items(path) if path.is_file() else []
    found = {
        item.item_id: Reply(item.text, item.outcome.value >= _RIGHT)
        for item in reversed(items)
        if item.outcome.status == "scored" and item.text.strip()
    }
    if not found:
        raise DataError(
            "no answers" if path.is_file() else "no such file",
            expected="items of a task that was measured over these rows: evaluations/<hash>/<task>-<hash>.jsonl",
            cure="measure the model with posttrain eval, on a task of the type generation",
            place=str(path),
        )
    return found
