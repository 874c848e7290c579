"""Recipes over a tiny model and a few rows, run in this process: what the tests of runs are made of."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.core.protocols import Progress
from posttrain.core.run_folder import RunFolder, StageFolder
from posttrain.models.artifacts import save_tokenizer
from posttrain.models.making import make_model
from posttrain.pipeline.recipe import Recipe, read_recipe
from posttrain.pipeline.run import run_recipe
from tests.models.tiny_models import ARCHITECTURES, make_tokenizer
from tests.stages.tiny_sft import StopAfter

WORDS = ("ant", "bee", "cow", "dog", "elk", "fox", "gnu", "hen", "ibis", "jay", "kiwi", "lark")


def make_base(folder: Path) -> Path:
    """Write a random Llama of two small layers with a byte tokenizer and no chat template of its own."""
    settings = {**ARCHITECTURES["llama"], "max_position_embeddings": 256, "initializer_range": 0.1}
    make_model(settings, make_tokenizer(), 3).save_pretrained(folder)
    save_tokenizer(make_tokenizer(), folder, None)
    return folder


def make_rows(path: Path, count: int, start: int = 0) -> Path:
    """Write conversations of one question and a short answer, each of another length."""
    lines = []
    for index in range(start, start + count):
        question = f"{WORDS[index % len(WORDS)] * (1 + index % 3)} {index}?"
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": WORDS[index % 5]}]
        lines.append(json.dumps({"messages": messages, "answer": WORDS[index % 5], "level": index % 2}))
    path.write_text("\n".join(lines) + "\n")
    return path


def sft(**changes: Any) -> dict[str, Any]:
    """A stage of four steps that logs each, in float32; None takes a key away."""
    stage = {
        "name": "sft",
        "type": "sft",
        "data": [{"source": "rows.jsonl"}],
        "steps": 4,
        "batch_size": 3,
        "learning_rate": 1e-2,
        "dtype": "float32",
        "checkpoint_every_steps": 2,
        "log_every_steps": 1,
        **changes,
    }
    return {key: value for key, value in stage.items() if value is not None}


def task(**changes: Any) -> dict[str, Any]:
    """A task of five rows."""
    return {"name": "held_out", "data": {"source": "held_out.jsonl"}, "max_new_tokens": 4, **changes}


def recipe_values(*stages: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A recipe as plain values: one SFT stage, or those given."""
    head = {"schema": 1, "name": "demo", "seed": 17, "model": "base", "chat": {"template": "plain"}}
    return {**head, **changes, "stages": list(stages) or [sft()]}


@dataclass
class Finished:
    """A run folder after a run, with what tests read of it."""

    recipe: Recipe
    folder: RunFolder

    @property
    def record(self) -> dict[str, Any]:
        """run.json."""
        return json.loads(self.folder.run_json.read_text())

    @property
    def statuses(self) -> list[str]:
        """Of every round, in order."""
        return [stage["status"] for stage in self.record["stages"]]

    @property
    def hashes(self) -> list[str]:
        """Of the policy that every round made, in order."""
        return [stage["outputs"]["policy"] for stage in self.record["stages"]]

    def items(self, task: str, stage: str) -> Path:
        """The items of a task, as a stage's policy (or `base`) answered them."""
        [metric, *_] = [m for m in self.record["metrics"] if (m["task"], m["stage"]) == (task, stage)]
        return self.folder.evaluations(metric["policy"]).items(task, metric["task_hash"])

    def stage(self, index: int = 0) -> StageFolder:
        """The working folder of a round."""
        return StageFolder(sorted(self.folder.stages.iterdir())[index])

    def artifact(self, index: int = -1) -> Path:
        """The folder of the policy that a round made."""
        return self.folder.artifacts / self.hashes[index]

    def lines(self, index: int = 0) -> list[dict[str, Any]]:
        """The metrics of a round, without those that measure this machine."""
        text = self.stage(index).metrics.read_text()
        return [drop_times(json.loads(line)) for line in text.splitlines()]


def drop_times(line: dict[str, Any]) -> dict[str, Any]:
    """A line of metrics without times and memory."""
    return {key: value for key, value in line.items() if not key.startswith("time/")}


class Notes:
    """A progress that remembers its notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def start(self, title: str, total: int, *, unit: str = "step") -> None: ...
    def advance(self, amount: int = 1, **figures: float | str) -> None: ...
    def finish(self) -> None: ...
    def note(self, text: str) -> None:
        self.notes.append(text)


class StopInTraining(Notes):
    """Asks for a stop once so many steps were taken; a progress too, which tells it when training begins."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.is_training = False
        self.stop = StopAfter(steps)

    def start(self, title: str, total: int, *, unit: str = "step") -> None:
        self.is_training = title == "training"

    def __call__(self) -> bool:
        return self.is_training and self.stop()


class Workshop:
    """A folder with a base model and rows, in which recipes are written and run; or a copy of another workshop's."""

    def __init__(self, folder: Path, base: Path | None, *, begun: Path | None = None) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        if begun is not None:
            shutil.copytree(begun, folder, dirs_exist_ok=True)
            return
        assert base is not None
        shutil.copytree(base, folder / "base")
        make_rows(folder / "rows.jsonl", 10)
        make_rows(folder / "held_out.jsonl", 5, start=40)

    def write(self, *stages: dict[str, Any], file: str = "demo.yaml", **changes: Any) -> Path:
        """Write a recipe (JSON is YAML) and return its path."""
        path = self.folder / file
        path.write_text(json.dumps(recipe_values(*stages, **changes)))
        return path

    def read(self, *stages: dict[str, Any], into: str = "run", set_: Sequence[str] = (), **changes: Any) -> Recipe:
        """Write a recipe and read it again."""
        return read_recipe(self.write(*stages, **changes), list(set_), folder=self.folder / into)

    def run(
        self,
        *stages: dict[str, Any],
        into: str = "run",
        progress: Progress | None = None,
        should_stop: Callable[[], bool] | None = None,
        set_: Sequence[str] = (),
        override: Sequence[str] = (),
        **changes: Any,
    ) -> Finished:
        """Write a recipe and carry it out, letting the named checks through."""
        self.recipe = self.read(*stages, into=into, set_=set_, **changes)
        folder = run_recipe(self.recipe, progress=progress, should_stop=should_stop, override=override)
        return Finished(self.recipe, RunFolder(folder))

    def finished(self) -> Finished:
        """The run that was begun last, however it ended."""
        return Finished(self.recipe, RunFolder(self.recipe.folder))
