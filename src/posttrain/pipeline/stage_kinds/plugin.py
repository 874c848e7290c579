"""A user's own stage, of which the pipeline knows what it names and calls its `run`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from posttrain.chat.rendering import Renderer
from posttrain.core.errors import RecipeError
from posttrain.core.records import Artifact
from posttrain.models.artifacts import save_policy
from posttrain.models.loaded_policy import LoadedPolicy
from posttrain.models.loading import load_policy
from posttrain.pipeline.plugins import call_plugin
from posttrain.pipeline.recipe import Recipe
from posttrain.pipeline.stage_entries import StageEntry
from posttrain.pipeline.stage_jobs import StageJob, StageResult, describe_artifact, store_artifact
from posttrain.pipeline.stage_kinds.kind import KeyParts, StageKind
from posttrain.pipeline.wiring import fingerprint_values
from posttrain.training.distributed import Ranks, find_device


@dataclass(slots=True)
class PluginParts:
    """Live parts of a user's own stage.

    `policy` is loaded in fp32, adapters frozen (`models.adapters.prepare_policy` makes one trainable);
    `publish` saves what `policy.model` holds and returns the artifact.
    """

    policy: LoadedPolicy
    renderer: Renderer
    ranks: Ranks
    device: str
    publish: Callable[[LoadedPolicy], Artifact]


class PluginKind(StageKind[None]):
    """A user's own stage; its configuration is typed once a run imports it."""

    def identify(self, recipe: Recipe, entry: StageEntry, config: None) -> KeyParts:
        """Return the stage's keys as written, and the content of what they name under `source`."""
        return KeyParts(entry.values, fingerprint_values(recipe, entry.values))

    def run(self, job: StageJob, config: None) -> StageResult:
        """Import the user's code and call its `run`."""
        own, run = job.entry.load_plugin()
        policy = load_policy(Path(job.parent.folder), dtype="float32", device=find_device())

        def publish(trained: LoadedPolicy) -> Artifact:
            facts = describe_artifact(job, own.identity(), {})
            return store_artifact(job, lambda folder: save_policy(trained, folder, facts, weights_dtype="float32"))

        parts = PluginParts(policy, job.renderer, job.ranks, find_device(), publish)
        plugin = job.entry.plugin
        assert plugin is not None  # load_plugin has read it
        artifacts = call_plugin(
            plugin, lambda: run(own, {"policy": job.parent}, parts, job.context), place=job.entry.place
        )
        if not isinstance(artifacts, dict) or not isinstance(artifacts.get("policy"), Artifact):
            raise RecipeError(
                f"the stage returned {artifacts!r}"[:200],
                expected="a dictionary with the artifact 'policy', as parts.publish(policy) returns it",
                place=job.entry.place,
            )
        return StageResult(artifacts)


KIND = PluginKind()
