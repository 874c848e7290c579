"""Snapshots of a stage's way: kept until they are discarded, and each of them an artifact when somebody asks."""

from __future__ import annotations

from typing import Any

import pytest
from safetensors.torch import load_file

from posttrain.core.errors import StorageError, TerminatedError
from posttrain.models.manifest import load_manifest, verify_artifact
from posttrain.pipeline import run
from posttrain.pipeline.stage_jobs import StageJob
from posttrain.pipeline.stage_runs import build_snapshot_artifact, discard_snapshots, list_snapshots
from tests.pipeline.tiny_runs import StopInTraining, Workshop, sft, task

STEADY: dict[str, Any] = {"schedule": "constant", "warmup_fraction": 0.0, "steps": 6}
LORA = {"rank": 4, "targets": "all-linear"}
VARIANTS: dict[str, dict[str, Any]] = {
    "full weights": {},
    "bf16 with a moving average": {"dtype": "bfloat16", "ema_decay": 0.5},
    "LoRA": {"adapter": LORA},
}


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[StageJob]:
    """The jobs that runs were given, in order; each is asked for two snapshots, as a gate would."""
    taken: list[StageJob] = []
    run_stage = run.run_stage

    def ask(job: StageJob) -> Any:
        job.context.num_snapshots = 2
        taken.append(job)
        return run_stage(job)

    monkeypatch.setattr(run, "run_stage", ask)
    return taken


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_snapshot_becomes_the_artifact_that_the_stage_would_have_made_there(
    workshop: Workshop, jobs: list[StageJob], variant: str
) -> None:
    stage = sft(**STEADY, **VARIANTS[variant])
    done = workshop.run(stage)
    job = jobs[0]
    assert list_snapshots(job) == [2, 4]
    found = [build_snapshot_artifact(job, step) for step in (2, 4)]
    for step, artifact in zip((2, 4), found, strict=True):
        shorter = workshop.run({**stage, "steps": step}, into=f"{step}")
        assert artifact.hash == shorter.hashes[0]
        manifest = verify_artifact(done.folder.artifacts / artifact.hash)
        assert manifest.parents == [job.parent.hash] and manifest.config["snapshot"] == step
        assert manifest.ledger == load_manifest(done.artifact()).ledger
    keys = {done.record["stages"][0]["key"], *(artifact.key for artifact in found)}
    assert len(keys) == len({done.hashes[0], *(artifact.hash for artifact in found)}) == 3


def test_an_artifact_of_a_snapshot_is_made_once_and_outlives_it(
    workshop: Workshop, jobs: list[StageJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop.run(sft(**STEADY))
    job = jobs[0]
    artifact = build_snapshot_artifact(job, 4)
    discard_snapshots(job)
    assert list_snapshots(job) == [4] and not job.folder.snapshots.exists()  # what is an artifact stays known
    monkeypatch.setattr("posttrain.pipeline.stage_runs.save_policy", None)
    assert build_snapshot_artifact(job, 4) == artifact
    with pytest.raises(StorageError, match="the checkpoint of step 2 cannot be used"):
        build_snapshot_artifact(job, 2)


def test_an_adapter_of_a_snapshot_lies_on_the_parents_base(workshop: Workshop, jobs: list[StageJob]) -> None:
    first, second = sft(**STEADY, adapter=LORA), sft(name="more", **STEADY, adapter=LORA, adapter_start="stack")
    done = workshop.run(first, second)
    artifact = build_snapshot_artifact(jobs[1], 2)
    folder = done.folder.artifacts / artifact.hash
    assert load_manifest(folder).adapters == ["00-sft", "01-more"]
    below = [load_file(path / "adapters/00-sft/adapter_model.safetensors") for path in (folder, done.artifact(0))]
    assert all((below[0][name] == below[1][name]).all() for name in below[1])


def test_a_run_that_was_stopped_has_the_snapshots_of_one_that_was_not(workshop: Workshop, jobs: list[StageJob]) -> None:
    stage = sft(**STEADY, adapter=LORA)
    workshop.run(stage, into="whole")
    wanted = [build_snapshot_artifact(jobs[0], step).hash for step in (2, 4)]
    for k in (1, 3, 5):
        stop = StopInTraining(k)
        with pytest.raises(TerminatedError):
            workshop.run(stage, into=f"{k}", progress=stop, should_stop=stop)
        workshop.run(stage, into=f"{k}")
        assert [build_snapshot_artifact(jobs[-1], step).hash for step in list_snapshots(jobs[-1])] == wanted


def test_a_snapshot_that_is_damaged_is_not_offered(workshop: Workshop, jobs: list[StageJob]) -> None:
    workshop.run(sft(**STEADY))
    (jobs[0].folder.snapshots / "step-00000002" / "state.safetensors").write_bytes(b"torn")
    assert list_snapshots(jobs[0]) == [4]


def test_without_a_wish_for_them_there_are_none(workshop: Workshop) -> None:
    done = workshop.run(sft(), evaluate=[task()])
    assert not done.stage().snapshots.exists()


def test_a_snapshot_of_a_stage_that_samples_is_what_a_shorter_stage_would_have_made(
    workshop: Workshop, jobs: list[StageJob]
) -> None:
    stage = {
        "name": "rl",
        "type": "grpo",
        "data": [{"source": "rows.jsonl"}],
        "scorer": {"type": "length", "low": 2, "high": 3, "slope": 20},
        "problems_per_step": 2,
        "group_size": 4,
        "max_new_tokens": 6,
        "learning_rate": 1e-2,
        "warmup_fraction": 0.0,
        "dtype": "float32",
        "steps": 3,
    }
    override = ["length_caps", "rollouts"]
    done = workshop.run(stage, override=override)
    assert list_snapshots(jobs[0]) == [1, 2]
    artifact = build_snapshot_artifact(jobs[0], 2)
    shorter = workshop.run({**stage, "steps": 2}, into="shorter", override=override)
    paths = [done.folder.artifacts / artifact.hash, shorter.artifact()]
    weights = [load_file(path / "model.safetensors") for path in paths]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[1])
    discard_snapshots(jobs[0])
    assert list_snapshots(jobs[0]) == [2]
