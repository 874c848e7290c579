"""Repairs of a stage whose gate failed: candidates are made, judged on development rows, and one is chosen.

| repair | candidates |
| --- | --- |
| `interpolate` | weights between the parent's and the stage's: 0.75, 0.5, 0.25 of the way, then two steps nearer |
| `best_checkpoint` | the stage's weights at evenly spaced steps of its training |
| `replay` | the stage trained again, 25 or 50 % of its rows from what the policy learned from before |
| `smaller_learning_rate` | the stage trained again, at a half or a quarter of the learning rate |

Interpolation prefers the most of the stage that would pass; the others the candidate that clears the gate by most.
Candidates are artifacts like any other: a search that was stopped goes on, and what was judged is not judged again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from posttrain.core.errors import RefusedError
from posttrain.core.hashing import finite_or_none, hash_json
from posttrain.core.protocols import Progress
from posttrain.core.records import Artifact
from posttrain.data.sources import DataSource
from posttrain.gates.rules import RepairName
from posttrain.gates.search import choose_candidate
from posttrain.models.artifacts import save_policy
from posttrain.models.interpolation import interpolate_policies
from posttrain.models.loading import read_context_tokens
from posttrain.models.manifest import ArtifactFacts, load_manifest
from posttrain.pipeline.gatekeeper import Found, Judged
from posttrain.pipeline.stage_entries import StageEntry
from posttrain.pipeline.stage_jobs import StageJob, describe_artifact
from posttrain.pipeline.stage_runs import build_snapshot_artifact, list_snapshots
from posttrain.pipeline.wiring import load_stage_data
from posttrain.stages import sft
from posttrain.stages.training_keys import TrainingKeys, count_steps

Judge = Callable[[Artifact], Judged]
Settings = Mapping[str, float | int | str]
TrainAgain = Callable[[StageEntry, str], Artifact]
"""Trains a changed stage from the same parent, in a working folder of this name, and returns what it made."""

INTERPOLATION_WEIGHTS = (0.75, 0.5, 0.25)
NUM_HALVINGS = 2
NUM_SNAPSHOTS = 8
REPLAY_FRACTIONS = (0.25, 0.5)
LEARNING_RATE_FACTORS = (0.5, 0.25)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to repair: its settings, the policy that they made, and what the gate says of it."""

    settings: Settings
    policy: Artifact
    judged: Judged


@dataclass(frozen=True, slots=True)
class Repairs:
    """Makes and judges the candidates of one stage (`gatekeeper.Search`).

    Args:
        job: The stage as it ran; the policy it made is `made`.
        made: The stage's own policy.
        replay: Rows for the repair of that name.
        train_again: Trains a changed stage.
        progress: Told of every candidate.
    """

    job: StageJob
    made: Artifact
    replay: Sequence[DataSource]
    train_again: TrainAgain
    progress: Progress

    def __call__(self, name: RepairName, judge: Judge) -> Found:
        """Return the candidate of a repair that does best on development rows, and the record of the search.

        Raises:
            PosttrainError: A candidate cannot be made or measured.
        """
        makers: dict[RepairName, Callable[[Judge], list[Candidate]]] = {
            "interpolate": self._interpolate,
            "best_checkpoint": self._go_back,
            "replay": self._mix_in,
            "smaller_learning_rate": self._train_slower,
        }
        candidates = makers[name](judge)
        # The most of the stage stands first among interpolations, whatever order they were tried in.
        is_ordered = name == "interpolate"
        if is_ordered:
            candidates.sort(key=lambda one: -float(one.settings["weight"]))
        chosen = choose_candidate(
            [one.judged.clearance for one in candidates],
            [one.judged.passes for one in candidates],
            prefers_first=is_ordered,
        )
        record = {
            "split": "development",
            "candidates": [
                {
                    "settings": dict(one.settings),
                    "policy": one.policy.hash,
                    "lowest": finite_or_none(one.judged.clearance),
                    "is_chosen": index == chosen,
                    "results": one.judged.results,
                }
                for index, one in enumerate(candidates)
            ],
        }
        return Found(None if chosen is None else candidates[chosen].policy, record)

    def _try(self, name: str, settings: Settings, policy: Artifact, judge: Judge) -> Candidate:
        judged = judge(policy)
        shown = ", ".join(f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"
                          for key, value in settings.items())  # fmt: skip
        cleared = "unmeasured" if judged.clearance == -math.inf else f"{judged.clearance:+.2f} standard errors"
        self.progress.note(f"repair by {name}: {shown}: clears the gate by {cleared} on development rows")
        return Candidate(settings, policy, judged)

    def _interpolate(self, judge: Judge) -> list[Candidate]:
        found: dict[float, Candidate] = {}

        def attempt(weight: float) -> bool:
            if weight not in found:
                found[weight] = self._try("interpolate", {"weight": weight}, self._build_between(weight), judge)
            return found[weight].judged.passes

        # The stage's own policy, at weight 1, has failed: the boundary is sought below it.
        low = max([weight for weight in INTERPOLATION_WEIGHTS if attempt(weight)], default=0.0)
        high = min(weight for weight in (1.0, *INTERPOLATION_WEIGHTS) if weight > low)
        for _ in range(NUM_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if attempt(middle) else (low, middle)
        return list(found.values())

    def _build_between(self, weight: float) -> Artifact:
        """Return the policy at a share of the way from the parent to the stage, made once."""
        parent, made, store = self.job.parent, self.made, self.job.store
        key = hash_json({"repair": "interpolate", "parent": parent.hash, "stage": made.hash, "weight": weight})

        def save(folder: Path) -> None:
            found = interpolate_policies(Path(parent.folder), Path(made.folder), weight)
            save_policy(found.policy, folder, self._describe(key, weight), weights_dtype=found.weights_dtype)

        return store.find(key) or store.add(key, save)

    def _describe(self, key: str, weight: float) -> ArtifactFacts:
        config = {"repair": "interpolate", "weight": weight, "stage": self.made.hash}
        ledger = load_manifest(Path(self.made.folder)).ledger
        parents = [self.job.parent.hash, self.made.hash]
        return replace(describe_artifact(self.job, config, ledger), key=key, parents=parents)

    def _go_back(self, judge: Judge) -> list[Candidate]:
        """Judge the snapshots that are there, or the artifacts that were made of them.

        Raises:
            RefusedError: The stage was trained without keeping any.
        """
        made = [(step, build_snapshot_artifact(self.job, step)) for step in list_snapshots(self.job)]
        if not made and self._config().has_steps:
            raise RefusedError(
                "the stage was trained without keeping its weights on the way",
                expected="snapshots of the stage, which it keeps where its gate asks for best_checkpoint",
                cure=f"remove {self.job.store.locate(self.job.key)} and run again: the stage trains anew, to the same "
                "weights, and keeps them on the way; or leave best_checkpoint out of on_fail",
                place=f"{self.job.entry.name}: gate: on_fail",
            )
        return [self._try("best_checkpoint", {"step": step}, policy, judge) for step, policy in made]

    def _mix_in(self, judge: Judge) -> list[Candidate]:
        config = self._config()
        assert isinstance(config, sft.SftConfig)  # the recipe was checked: nothing else has rows to replay beside
        data = load_stage_data(
            self.job.recipe, config, self.job.renderer, read_context_tokens(Path(self.job.parent.folder)), self.progress
        )
        lengths = [len(rows) for rows in data.train.rows]
        steps = count_steps(config, sft.build_order(config, data.train, self.job.context.seed).steps_per_epoch)
        weights = [source.proportion for source in config.data]
        own = [float(length) if weight is None else weight for length, weight in zip(lengths, weights, strict=True)]
        found = []
        for fraction in REPLAY_FRACTIONS:
            mixed = [
                source.model_copy(update={"proportion": (1 - fraction) * share / sum(own)})
                for source, share in zip(config.data, own, strict=True)
            ]
            mixed += [source.model_copy(update={"proportion": fraction / len(self.replay)}) for source in self.replay]
            # As many steps as before, so that the repair is no more training.
            changed = config.model_copy(update={"data": mixed, "epochs": None, "steps": steps})
            found.append(self._train(changed, "replay", {"replay_fraction": fraction}, judge))
        return found

    def _train_slower(self, judge: Judge) -> list[Candidate]:
        config = self._config()
        return [
            self._train(
                config.model_copy(update={"learning_rate": factor * config.learning_rate}),
                "smaller_learning_rate",
                {"learning_rate": factor * config.learning_rate},
                judge,
            )
            for factor in LEARNING_RATE_FACTORS
        ]

    def _train(self, config: TrainingKeys, name: str, settings: Settings, judge: Judge) -> Candidate:
        entry = replace(self.job.entry, config=config, gate=None)
        label = "-".join(
            [name.replace("_", "-"), *(f"{value:g}" for value in settings.values() if isinstance(value, float))]
        )
        return self._try(name, settings, self.train_again(entry, label), judge)

    def _config(self) -> TrainingKeys:
        config = self.job.entry.config
        if not isinstance(config, TrainingKeys):
            raise TypeError(f"stage {self.job.entry.name!r} is trained by its own code")
        return config
