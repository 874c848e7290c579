"""A policy opened to be measured on the lab's tasks again and again, without a recipe."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from posttrain.core.progress import SilentProgress
from posttrain.core.run_folder import RunFolder
from posttrain.evaluation.task import GenerationTask
from posttrain.models.loading import load_policy
from posttrain.pipeline.measure import Measurer, MeasureSettings, OpenPolicy
from posttrain.pipeline.roots import declare_roots
from posttrain.pipeline.talking import choose_dtype, open_policy_renderer


def open_measurer(stack: ExitStack, artifact: Path, folder: Path) -> tuple[Measurer, OpenPolicy]:
    """Return what measures below a folder, and the policy; both are closed when the stack unwinds."""
    dtype = choose_dtype(artifact)
    loaded = load_policy(artifact, dtype=dtype)
    renderer = stack.enter_context(open_policy_renderer(loaded, is_raw=False))
    settings = MeasureSettings(declare_roots(folder / "here.yaml"), {}, dtype)
    measurer = Measurer(settings, RunFolder(folder), renderer, SilentProgress())
    policy = measurer.open(stack, artifact, loaded.hash)
    policy.take(loaded)
    return measurer, policy


def build_sampled_task(name: str, rows: int, source: str | None = None) -> GenerationTask:
    """Return a task over held-out rows of one of the lab's sets, drawn at temperature 1."""
    return GenerationTask(
        name=name,
        data={"source": f"lab:{source or name}", "split": "held_out", "rows": rows},
        scorer="lab",
        max_new_tokens=112,
        temperature=1.0,
    )
