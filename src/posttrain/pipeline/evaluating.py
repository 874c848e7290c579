"""Measuring any model on a suite, outside of a run: what `posttrain eval` and `posttrain compare` do.

Results lie in `<folder>/evaluations/<policy hash>/`, whatever the model was called: what it has answered is not asked
again. One process at a time measures a policy there, and none while a run works in the folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posttrain.chat.templates import PLAIN_TEMPLATE
from posttrain.core.errors import LockedError, RecipeError
from posttrain.core.freed_memory import limit_primitive_cache
from posttrain.core.protocols import Progress
from posttrain.core.run_folder import FolderLock, RunFolder
from posttrain.evaluation.task import EvaluationTask
from posttrain.models.loading import load_policy
from posttrain.pipeline.measure import Measured, Measurer, MeasureSettings, OpenPolicy, measure_all
from posttrain.pipeline.stoppable import StoppableProgress
from posttrain.pipeline.suites import Suite
from posttrain.pipeline.talking import check_device, check_dtype, choose_dtype, find_model, open_policy_renderer
from posttrain.pipeline.yaml_reader import read_file

OWN, PLAIN = "auto", "plain"


@dataclass(frozen=True, slots=True)
class EvaluationChoice:
    """What to measure models on, and how.

    Args:
        suite: The tasks.
        tasks: Names of some of them; none: all.
        rows: A random choice of at most so many rows a task, which is part of every larger one; None: all.
        folder: Where `evaluations/` lies.
        dtype: `auto` (what the weights are stored in), `bfloat16` or `float32`.
        device: Where the model computes; None is the GPU if there is one.
        template: `auto` (the model's own chat template, else the plain one), `plain`, or a .jinja file.
        seed: What draws start from.
        allow_unsafe: Whether programs may run without a sandbox where none passes its self-check.
    """

    suite: Suite
    tasks: Sequence[str] = ()
    rows: int | None = None
    folder: Path = field(default_factory=Path)
    dtype: str = "auto"
    device: str | None = None
    template: str = OWN
    seed: int = 0
    allow_unsafe: bool = False

    @property
    def chosen(self) -> list[EvaluationTask]:
        """The tasks that are measured."""
        return self.suite.choose(self.tasks)


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What a model scored, by task, and where its items lie."""

    model: str
    policy_hash: str
    folder: Path
    measured: dict[str, Measured]
    sandbox: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "model": self.model,
            "policy": self.policy_hash,
            "folder": str(self.folder),
            "sandbox": self.sandbox,
            "metrics": [figures for one in self.measured.values() for figures in one.metrics],
        }


def evaluate_model(
    model: str, choice: EvaluationChoice, progress: Progress, should_stop: Callable[[], bool]
) -> Evaluated:
    """Return what a model scores on a suite.

    Raises:
        RecipeError: No such task, precision, device or template.
        ModelError: The model cannot be found, loaded or trusted.
        LockedError: Another process measures this policy in this folder, or a run works there.
        PosttrainError: A task's rows cannot be used, or the harness failed on too many items.
        TerminatedError: Asked to stop; the same call goes on from there.
    """
    tasks = choice.chosen
    with _open(model, choice, StoppableProgress(progress, should_stop)) as (measurer, policy):
        firsts = {} if choice.rows is None else {task.name: choice.rows for task in tasks}
        measured = measure_all(measurer, policy, tasks, firsts=firsts)
        return Evaluated(model, policy.hash, measurer.folder.evaluations(policy.hash).root, measured, measurer.sandbox)


@contextmanager
def _open(model: str, choice: EvaluationChoice, progress: Progress) -> Iterator[tuple[Measurer, OpenPolicy]]:
    limit_primitive_cache()
    device = check_device(choice.device)
    check_dtype(choice.dtype)
    template = read_template(choice.template)
    folder = find_model(model)
    dtype = choose_dtype(folder) if choice.dtype == "auto" else choice.dtype
    loaded = load_policy(folder, dtype=dtype, device=device)
    with ExitStack() as stack:
        _lock(stack, RunFolder(choice.folder), loaded.hash)
        renderer = stack.enter_context(open_policy_renderer(loaded, is_raw=False, template=template))
        settings = MeasureSettings(choice.suite.roots, choice.suite.scorers, dtype, choice.allow_unsafe)
        measurer = Measurer(settings, RunFolder(choice.folder), renderer, progress, seed=choice.seed)
        policy = measurer.open(stack, folder, loaded.hash)
        policy.take(loaded)
        if loaded.chat_template is None and template is None:
            progress.note(f"{model} has no chat template: the plain one is used")
        yield measurer, policy


def _lock(stack: ExitStack, folder: RunFolder, policy_hash: str) -> None:
    """Keep others from writing a policy's items until the stack unwinds.

    Raises:
        LockedError: Another process measures this policy in this folder, or a run works there.
    """
    root = folder.evaluations(policy_hash).root
    # The lock stands beside the policy's folder, which is moved away where it is another model's of the same weights.
    locks = [root.with_name(f"{root.name}.lock")]
    if folder.run_json.is_file() or folder.lock.is_file():
        locks.insert(0, folder.lock)
    for path in locks:
        try:
            stack.enter_context(FolderLock(path))
        except LockedError as error:
            raise LockedError(
                error.found,
                expected="one process at a time that measures a policy in a folder, and no run that works there",
                cure="wait for it, stop it, or measure into another folder with --out",
                place=str(path),
            ) from error


def read_template(choice: str) -> str | None:
    """Return the text of a chat template that is asked for, None for the model's own.

    Raises:
        RecipeError: There is no such file.
    """
    if choice == OWN:
        return None
    if choice == PLAIN:
        return PLAIN_TEMPLATE
    if not Path(choice).is_file():
        raise RecipeError(
            f"'{choice}' is no file",
            expected="auto (the model's own template), plain, or a .jinja file",
            cure="check the path",
            place="--template",
        )
    return read_file(Path(choice))
