"""Tasks of lm-evaluation-harness in this pipeline: where their folders may lie, how they are rendered, who is asked."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from posttrain.chat.rendering import Renderer
from posttrain.chat.stops import find_stop_ids
from posttrain.core.errors import RecipeError
from posttrain.core.hashing import hash_json
from posttrain.evaluation.harness import LoadedTask, check_installed, list_members, load_task
from posttrain.evaluation.harness_metrics import choose_metric
from posttrain.evaluation.harness_task import HARNESS, HarnessTask
from posttrain.evaluation.task import EvaluationTask
from posttrain.evaluation.weighing import Weigher
from posttrain.models.heads import choose_layout
from posttrain.models.loaded_policy import LoadedPolicy
from posttrain.models.logprobs import compute_logprobs
from posttrain.pipeline.roots import Roots

SUITE_PREFIX = f"{HARNESS}:"
"""Begins the name of a suite that is a list of the harness's tasks: `harness:arc_easy,piqa`."""
TEXT_TEMPLATE = "text"
"""In place of a template's hash where prompts go through none."""


def locate_include(task: HarnessTask, roots: Roots, *, place: str) -> Path | None:
    """Return the folder of a task's own YAML files, held to the declared roots; None where it names none.

    Raises:
        RecipeError: It leads outside the roots, or is no folder.
    """
    if task.include is None:
        return None
    path = roots.resolve(task.include, place=place)
    if not path.is_dir():
        raise RecipeError(
            f"{task.include!r} is no folder",
            expected="a folder with tasks of the harness as YAML",
            cure="check the path, which starts at the recipe's folder",
            place=place,
        )
    return path


def check_includes(tasks: Sequence[EvaluationTask], roots: Roots, places: Sequence[str]) -> None:
    """Refuse a folder of tasks that lies outside the declared roots, whether it is there or not.

    Raises:
        RecipeError: One does.
    """
    for task, place in zip(tasks, places, strict=True):
        if isinstance(task, HarnessTask) and task.include is not None:
            roots.resolve(task.include, place=place)


def prepare_harness(
    task: HarnessTask, roots: Roots, renderer: Renderer, dtype: str, *, allow_unsafe: bool
) -> tuple[LoadedTask, str]:
    """Return a task, loaded with its documents, and its name by content. This runs the harness's code.

    Raises:
        RecipeError: The harness is not installed, or the task or its folder cannot be found.
        RefusedError: The task cannot be measured, or its metric cannot be an item's value.
        DataError: Its data cannot be read.
    """
    include = locate_include(task, roots, place=f"evaluate: {task.name}: include")
    loaded = load_task(task, include, render_chat=renderer.render_text, allow_unsafe=allow_unsafe)
    value = choose_metric(task, loaded)
    return loaded, hash_json([loaded.hash, value, name_template(task, renderer), dtype])


def name_template(task: HarnessTask, renderer: Renderer) -> str:
    """Return what names the template that a task's prompts go through."""
    return renderer.format.hash if task.form == "chat" else TEXT_TEMPLATE


def open_harness_policy(policy: LoadedPolicy, task: HarnessTask, weigher: Weigher, open_sampler: Any) -> Any:
    """Return a loaded policy as the harness asks it (`harness_model.HarnessPolicy`).

    Args:
        policy: The policy.
        task: Whose `form` says which tokens end an answer: a turn's, or the policy's own end of sequence.
        weigher: What weighs texts by it.
        open_sampler: Opens what draws from it.
    """
    from posttrain.evaluation.harness_model import HarnessPolicy  # imports the harness

    score = partial(compute_logprobs, policy.model, layout=choose_layout(policy.model), top_logprobs=1)
    own = find_stop_ids(policy.tokenizer_eos_ids, policy.generation_eos_ids, ())
    return HarnessPolicy(
        weigher=Weigher(policy.hash, score, weigher.renderer, weigher.context_tokens),
        tokenizer=policy.tokenizer,
        open_sampler=open_sampler,
        stop_ids=weigher.renderer.format.stop_ids if task.form == "chat" or not own else own,
    )


def list_suite_tasks(names: str) -> list[dict[str, Any]]:
    """Return tasks, as a suite writes them, for the harness's tasks, groups and tags that a suite's name lists.

    Raises:
        RecipeError: The harness is not installed, or has no such task.
    """
    check_installed("--suite")
    tasks: dict[str, dict[str, Any]] = {}
    for name in (part.strip() for part in names.split(",")):
        for member in list_members(name) or [name]:  # an unknown name is refused, with what was meant, once it is asked
            called = "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "-" for c in member.lower())[:64]
            tasks[member] = {"name": called.lstrip("-_") or HARNESS, "type": HARNESS, "task": member}
    return list(tasks.values())
