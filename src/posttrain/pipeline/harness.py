"""Tasks of lm-evaluation-harness as they are measured: loaded with prompts rendered, and asked of a policy."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from posttrain.chat.rendering import Renderer
from posttrain.chat.stops import find_stop_ids
from posttrain.core.hashing import hash_json
from posttrain.evaluation.harness import LoadedTask, load_task
from posttrain.evaluation.harness_metrics import choose_metric
from posttrain.evaluation.harness_task import HarnessTask
from posttrain.evaluation.weighing import Weigher, name_template
from posttrain.models.heads import choose_layout
from posttrain.models.loaded_policy import LoadedPolicy
from posttrain.models.logprobs import compute_logprobs
from posttrain.pipeline.harness_suites import locate_include
from posttrain.pipeline.roots import Roots


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
    return loaded, hash_json([loaded.hash, value, name_template(task.form, renderer), dtype])


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
        weigher=replace(weigher, compute_logprobs=score),
        tokenizer=policy.tokenizer,
        open_sampler=open_sampler,
        stop_ids=weigher.renderer.format.stop_ids if task.form == "chat" or not own else own,
    )
