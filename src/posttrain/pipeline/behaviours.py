"""Behaviour suites: a writer writes rows, a filter judges them, and a file in the published form holds what is kept.

What the models said lies beside the file, `<file>.written.jsonl` and `<file>.judged.jsonl`, and is never asked for
again; the file is a function of it. So the same command goes on where it was stopped, and one with more rows adds rows
to those that are there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from posttrain.core.hashing import hash_json
from posttrain.core.protocols import Progress
from posttrain.core.records import Completion, Problem
from posttrain.core.sampling import SamplingSettings
from posttrain.core.seeds import derive_seed
from posttrain.evaluation.behaviours.description import Behaviour
from posttrain.evaluation.behaviours.filtering import build_judge_questions, compute_confidence
from posttrain.evaluation.behaviours.rows import BehaviourRow
from posttrain.evaluation.behaviours.selecting import Selection
from posttrain.evaluation.behaviours.writing import SIDES, Draft, Side, build_writing_prompt, read_drafts
from posttrain.pipeline.behaviour_models import OpenFilter, OpenWriter, open_filter, open_writer
from posttrain.pipeline.behaviour_suites import BehaviourReport, count_labels, save_rows
from posttrain.pipeline.completion_file import CompletionFile
from posttrain.pipeline.sample_run import make_plain
from posttrain.pipeline.stoppable import check_stop
from posttrain.pipeline.talking import ModelChoice

ASKED_AT_ONCE = 10
"""Rows that one prompt asks for."""
PROMPTS_OF_A_BLOCK = 4
"""Prompts of one side that are drawn before anything is judged."""
MAX_FRUITLESS_BLOCKS = 3
"""So many blocks in a row without a row that is wanted end the writing."""
BLIND_SEPARATION = 0.6
"""Below this a filter hardly tells the labels apart (0.5 is not at all)."""


@dataclass(frozen=True, slots=True)
class WritingChoice:
    """What is to be written, by whom, and where to: made by the command line, read by `write_behaviours`.

    `threshold` is what the filter's confidence in a label must exceed; `filter` None keeps what the rules pass.
    """

    behaviour: Behaviour
    writer: ModelChoice
    filter: ModelChoice | None
    num_rows: int
    out: Path
    seed: int = 0
    threshold: float = 0.5
    settings: SamplingSettings = field(default_factory=lambda: SamplingSettings(768, temperature=1.0))


def write_behaviours(choice: WritingChoice, progress: Progress, should_stop: Callable[[], bool]) -> BehaviourReport:
    """Write rows of a behaviour, or those that a file lacks, and return what came of it.

    Raises:
        RecipeError: A model's name or an endpoint's file cannot be used.
        ModelError: A model cannot be loaded.
        SamplerError: An endpoint failed; what it said until then is kept.
        RefusedError: The file was begun with another writer, filter, description or other settings.
        TerminatedError: A stop was asked for; the same call goes on from there.
    """
    with ExitStack() as stack:
        writer = stack.enter_context(open_writer(choice.writer))
        judge = stack.enter_context(open_filter(choice.filter)) if choice.filter is not None else None
        for note in writer.notes:
            progress.note(note)
        return write_rows(choice, writer, judge, progress, should_stop)


def write_rows(
    choice: WritingChoice,
    writer: OpenWriter,
    judge: OpenFilter | None,
    progress: Progress,
    should_stop: Callable[[], bool],
) -> BehaviourReport:
    """Do what `write_behaviours` does, with models that are open."""
    selection = Selection(choice.behaviour, choice.num_rows, choice.threshold)
    described = hash_json(choice.behaviour.identity())
    with ExitStack() as stack:
        writing = {**writer.identity, "behaviour": described, "seed": choice.seed, "asked": ASKED_AT_ONCE}
        drawn = make_plain({**writing, **asdict(choice.settings)})
        written = stack.enter_context(_Journal(Path(f"{choice.out}.written.jsonl"), drawn).open())
        judged = None
        if judge is not None:
            identity = {**judge.identity, "behaviour": described}
            journal = _Journal(Path(f"{choice.out}.judged.jsonl"), identity)
            judged = _JournaledFilter(choice.behaviour, judge, stack.enter_context(journal.open()))
        session = _Session(choice, writer, written, should_stop)
        progress.start("write rows", choice.num_rows, unit="row")
        try:
            fruitless = 0
            while not selection.is_complete and fruitless < MAX_FRUITLESS_BLOCKS:
                found = selection.add(session.write_block(), judged)
                fruitless = 0 if found else fruitless + 1
                progress.advance(found)
        finally:
            progress.finish()
    selection.account.check_balance()
    rows = selection.list_rows()
    save_rows(choice.out, rows)
    return _report(choice, selection, rows, session.num_prompts)


@dataclass(slots=True)
class _Session:
    """Writes block after block, those first that were written before."""

    choice: WritingChoice
    writer: OpenWriter
    journal: _Journal
    should_stop: Callable[[], bool]
    num_blocks: int = 0
    num_prompts: int = 0

    def write_block(self) -> list[Draft]:
        """Return what the writer makes of the next prompts, in their order."""
        behaviour = self.choice.behaviour
        sides = SIDES if behaviour.form == "yes_no" else SIDES[:1]
        asked: list[tuple[Side, Problem]] = []
        for number in range(self.num_blocks * PROMPTS_OF_A_BLOCK, (self.num_blocks + 1) * PROMPTS_OF_A_BLOCK):
            asked += [
                (side, Problem(f"{side}:{number}", build_writing_prompt(behaviour, side, ASKED_AT_ONCE)))
                for side in sides
            ]
        self._draw([problem for _, problem in asked if problem.problem_id not in self.journal.lines])
        self.num_blocks += 1
        self.num_prompts += len(asked)
        drafts = []
        for side, problem in asked:
            line = self.journal.lines[problem.problem_id]
            is_cut = line["finish_reason"] != "stop"
            drafts += read_drafts(behaviour, side, str(line["text"]), asked=ASKED_AT_ONCE, is_cut=is_cut)
        return drafts

    def _draw(self, problems: Sequence[Problem]) -> None:
        check_stop(self.should_stop())
        seeds = [derive_seed(self.choice.seed, "behaviours", problem.problem_id) for problem in problems]
        if not problems:
            return
        with closing(self.writer.sampler.sample(problems, self.choice.settings, seeds)) as drawn:  # type: ignore[type-var]
            for index, completion in drawn:
                self.journal.append(problems[index].problem_id, _describe_completion(completion))
                check_stop(self.should_stop())


def _describe_completion(completion: Completion) -> dict[str, Any]:
    text = completion.text.encode(errors="replace").decode()
    return {"text": text, "finish_reason": completion.finish_reason, "seed": completion.seed}


@dataclass(slots=True)
class _JournaledFilter:
    """A filter that is asked of every row once."""

    behaviour: Behaviour
    filter: OpenFilter
    journal: _Journal

    def __call__(self, rows: Sequence[BehaviourRow]) -> list[float | None]:
        """Return the filter's confidence in each row's label."""
        keys = [hash_json([row.text, row.matching if row.statement is not None else row.options]) for row in rows]
        missing = [(key, row) for key, row in zip(keys, rows, strict=True) if key not in self.journal.lines]
        questions = [build_judge_questions(self.behaviour, row) for _, row in missing]
        shares = iter(self.filter.compute_shares([question for asked in questions for question in asked]))
        for (key, _), asked in zip(missing, questions, strict=True):
            confidence = compute_confidence([next(shares) for _ in asked])
            self.journal.append(key, {"confidence": confidence})
        return [self.journal.lines[key]["confidence"] for key in keys]


@dataclass(slots=True)
class _Journal:
    """What a model said, by the name of what it was asked: in memory, and on the disk from the moment it is known."""

    path: Path
    identity: dict[str, Any]
    lines: dict[str, dict[str, Any]] = field(default_factory=dict)
    _file: CompletionFile | None = None

    def open(self) -> _Journal:
        """Read what is there.

        Raises:
            RefusedError: It was said by another model, or to other questions.
        """
        self._file = CompletionFile(self.path, self.identity)
        with self.path.open(encoding="utf-8") as file:
            for text in file:
                line = json.loads(text)
                self.lines[line["problem_id"]] = line
        return self

    def __enter__(self) -> _Journal:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.__exit__(None, None, None)

    def append(self, key: str, values: dict[str, Any]) -> None:
        """Keep one answer."""
        line = {"problem_id": key, "sample_index": 0, "policy_hash": self.identity["policy_hash"], **values}
        self.lines[key] = line
        if self._file is not None:
            self._file.append((key, 0), line)


def _report(choice: WritingChoice, selection: Selection, rows: list[BehaviourRow], num_prompts: int) -> BehaviourReport:
    return BehaviourReport(
        out=str(choice.out),
        name=choice.behaviour.name,
        form=choice.behaviour.form,
        wanted=choice.num_rows,
        labels=count_labels(choice.behaviour.form, rows),
        prompts=num_prompts,
        account=selection.account.to_json(),
        lines=selection.account.describe(),
        threshold=None if choice.filter is None else choice.threshold,
        separation=selection.separation,
        mean_confidence=selection.mean_confidence,
        notes=list(_note(choice, selection)),
    )


def _note(choice: WritingChoice, selection: Selection) -> Iterator[str]:
    if not selection.is_complete:
        yield (
            f"{MAX_FRUITLESS_BLOCKS} blocks of prompts in a row gave no row that is wanted: another writer, another "
            "description or a lower threshold may; what was written is kept"
        )
    if choice.filter is None:
        yield "no filter judged the labels: they are what the writer was asked for"
    if selection.separation is not None and selection.separation < BLIND_SEPARATION:
        yield "the filter hardly tells the labels apart: what it kept is no better than what it dropped"
