"""A writer that answers from a function and a filter that judges by one: what tests of behaviour suites share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.core.errors import SamplerError
from posttrain.core.hashing import hash_text
from posttrain.core.records import Completion, Problem
from posttrain.core.sampling import PolicyVersion, SamplingSettings
from posttrain.evaluation.behaviours.description import Behaviour
from posttrain.evaluation.behaviours.filtering import JudgeQuestion
from posttrain.pipeline.behaviour_models import OpenFilter, OpenWriter
from posttrain.pipeline.behaviours import WritingChoice
from posttrain.pipeline.talking import ModelChoice

TEXTS = {"description": "hums", "matching": "It hums.", "not_matching": "It is silent."}
STATEMENTS = Behaviour(name="humming", form="yes_no", **TEXTS)
OPTIONS = Behaviour(name="humming", form="ab", **TEXTS)


def word(*parts: int | str) -> str:
    """A word of its own for every name."""
    digits = hash_text(*map(str, parts))[:8]
    return "".join("bdfghjklmnprstvz"[int(digit, 16)] + "aeio"[int(digit, 16) % 4] for digit in digits)


def write_statements(problem_id: str) -> str:
    """Ten statements that differ from all others; of every prompt one is malformed and one repeats the first."""
    side, number = problem_id.split(":")
    rows = [f"I {side} {' '.join(word(side, number, row, place) for place in range(4))}." for row in range(8)]
    lines = [json.dumps({"statement": row}) for row in [*rows, rows[0]]]
    return "\n".join([*lines, "That was all, good luck!"])


def write_questions(problem_id: str) -> str:
    """Ten questions with two options."""
    names = ("question", "matching", "not_matching")
    rows = [
        {name: f"{name} {word(problem_id, row, name)} {word(row, problem_id)}" for name in names} for row in range(9)
    ]
    return json.dumps(rows)


@dataclass
class ScriptedSampler:
    """Answers each prompt by its id, the last first, and fails once when it is told to."""

    script: Callable[[str], str] = write_statements
    policy_hash: str = "scripted"
    fails_after: int | None = None
    asked: list[str] = field(default_factory=list)

    def sample(
        self, problems: Sequence[Problem], settings: SamplingSettings, seeds: Sequence[int]
    ) -> Iterator[tuple[int, Completion]]:
        for index in reversed(range(len(problems))):
            if self.fails_after is not None and len(self.asked) >= self.fails_after:
                self.fails_after = None
                raise SamplerError("the endpoint is gone")
            problem = problems[index]
            self.asked.append(problem.problem_id)
            ids = np.zeros(0, np.int32)
            text = self.script(problem.problem_id)
            yield index, Completion(problem.problem_id, 0, ids, ids, text, "stop", self.policy_hash, seeds[index])

    def publish(self, policy: PolicyVersion) -> str:
        raise NotImplementedError

    def close(self) -> None: ...

    @property
    def writer(self) -> OpenWriter:
        """The sampler as an open writer."""
        return OpenWriter(self, {"policy_hash": self.policy_hash, "chat_format": "", "dtype": ""}, [])


@dataclass
class ScriptedFilter:
    """Finds a label as probable as a function of the question says, and counts what it was asked."""

    share_of: Callable[[JudgeQuestion], float | None] = lambda question: 0.9
    num_asked: int = 0

    def compute_shares(self, questions: Sequence[JudgeQuestion]) -> list[float | None]:
        self.num_asked += len(questions)
        return [self.share_of(question) for question in questions]

    @property
    def filter(self) -> OpenFilter:
        """It as an open filter."""
        return OpenFilter(self.compute_shares, {"policy_hash": "judge", "chat_format": "", "dtype": ""})


def choose(out: Path, rows: int, behaviour: Behaviour = STATEMENTS, **changes: Any) -> WritingChoice:
    """What is to be written; the models are given apart."""
    return WritingChoice(behaviour, ModelChoice("scripted"), changes.pop("filter", None), rows, out, **changes)
