"""The run folder: the only place that knows file names, and the lock that keeps a second run out.

runs/<name>/
  run.json            what ran and what came out (schema: pipeline/run_schema.json)
  recipe.yaml         the recipe as given; recipe.resolved.json as understood
  lock                held while a process works here
  stages/<NN-name>/   metrics.jsonl, audit.jsonl, checkpoints/, snapshots/, rollouts/ of one stage
  artifacts/<hash>/   finished artifacts
  reward_models/<stage>.json  which artifact is a stage's reward model
  evaluations/<hash>/ what a policy answered: <task>-<hash>.jsonl, one JSON line an item; .json says how
  gates/<hash>.json   what gates decided on an artifact; gates/looks.jsonl counts every decision
  superseded/         what earlier configurations left in the folders above; it comes back with them
  cache/              tokenized rows, and answers/ that studies of best-of-n drew and had judged, by content hash
  report.html
  README.md           the model card, where one was asked for
  traceback.txt       only after a bug of posttrain
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from types import TracebackType

from posttrain.core.durable import storage_errors
from posttrain.core.errors import LockedError

CHECKPOINT_MANIFEST = "manifest.json"
ARTIFACT_MANIFEST = "manifest.json"
MODEL_CARD = "README.md"
"""A model card's name, in a run's folder and in an exported one: the Hub shows the file of that name."""
REWARD_REPORT = "validation.json"
"""What validation rows say of a reward model, in its artifact."""
STUDY_FIGURES, STUDY_PAGE, STUDY_READINGS = "best_of_n.json", "best_of_n.html", "monitors.json"
"""What a study of best-of-n found, its page, and what the over-optimisation monitor says of it."""
TASK_HASH_LENGTH = 12
"""Characters of a task's hash that its files are named with."""


class RunFolder:
    """Paths inside one run's folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def run_json(self) -> Path:
        """What ran and what came out; read by reports and users."""
        return self.root / "run.json"

    @property
    def recipe(self) -> Path:
        """The recipe as the user wrote it."""
        return self.root / "recipe.yaml"

    @property
    def resolved(self) -> Path:
        """The recipe as understood: defaults filled in, overrides applied."""
        return self.root / "recipe.resolved.json"

    @property
    def lock(self) -> Path:
        """The file that is locked while a process works here."""
        return self.root / "lock"

    @property
    def report(self) -> Path:
        """The self-contained HTML report."""
        return self.root / "report.html"

    @property
    def model_card(self) -> Path:
        """The card of the policy that the run passed on."""
        return self.root / MODEL_CARD

    @property
    def traceback(self) -> Path:
        """The traceback of a bug of posttrain that ended a run; absent otherwise."""
        return self.root / "traceback.txt"

    @property
    def cache(self) -> Path:
        """What can be made again: tokenized rows, models built on the spot."""
        return self.root / "cache"

    def answers(self, drawing_hash: str) -> Path:
        """Return the folder of the answers that a study of best-of-n drew, and of what scorers say of them."""
        return self.cache / "answers" / drawing_hash

    def evaluations(self, policy_hash: str) -> EvaluationFolder:
        """Return the folder of what a policy was measured on."""
        return EvaluationFolder(self.root / "evaluations" / policy_hash)

    @property
    def gates(self) -> Path:
        """The folder of gate decisions, by the hash of the policy that they were made on."""
        return self.root / "gates"

    def gate(self, policy_hash: str) -> Path:
        """Return the file of the gate decisions made on a policy."""
        return self.gates / f"{policy_hash}.json"

    @property
    def looks(self) -> Path:
        """One JSON line for each time that a gate decided on rows that results are told of."""
        return self.gates / "looks.jsonl"

    @property
    def artifacts(self) -> Path:
        """The folder of finished artifacts, by hash."""
        return self.root / "artifacts"

    def reward_model(self, stage: str) -> Path:
        """Return the file that says which artifact is the reward model of a stage."""
        return self.root / "reward_models" / f"{stage}.json"

    @property
    def stages(self) -> Path:
        """The folder of the stages' working folders."""
        return self.root / "stages"

    @property
    def superseded(self) -> Path:
        """Where the working folders of earlier configurations are kept."""
        return self.root / "superseded"

    def stage(self, index: int, name: str, round_number: int = 1) -> StageFolder:
        """Return the working folder of one round: its place in the run (from 0), its stage, its number (from 1)."""
        suffix = f"-round-{round_number}" if round_number > 1 else ""
        return StageFolder(self.stages / f"{index + 1:02d}-{name}{suffix}")


class StageFolder:
    """Paths inside one stage's working folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def metrics(self) -> Path:
        """One JSON line a logged step."""
        return self.root / "metrics.jsonl"

    @property
    def key(self) -> Path:
        """The key that the folder's content belongs to: an artifact's, or that of how items were measured."""
        return self.root / "key"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints by step."""
        return self.root / "checkpoints"

    @property
    def rollouts(self) -> Path:
        """Journals of what was drawn and judged, by wave, back to the oldest checkpoint."""
        return self.root / "rollouts"

    def find_rollouts(self, rank: int, count: int) -> Path:
        """Return where one of several processes keeps its part of the journals."""
        return self.rollouts if count == 1 else self.rollouts / f"rank-{rank}-of-{count}"

    def list_rollouts(self) -> list[Path]:
        """Return every folder with journals, of however many processes."""
        return [self.rollouts, *sorted(self.rollouts.glob("rank-*-of-*"))]

    @property
    def audit(self) -> Path:
        """What the audit of a stage that samples saw, one JSON line a look."""
        return self.root / "audit.jsonl"

    @property
    def best(self) -> Path:
        """The best weights so far, by validation loss or by a task's score."""
        return self.root / "best"

    @property
    def snapshots(self) -> Path:
        """Weights at evenly spaced steps, for a gate that may go back to one of them."""
        return self.root / "snapshots"

    @property
    def ledger(self) -> Path:
        """Rows in, trained on, dropped by reason."""
        return self.root / "ledger.json"

    @property
    def snapshot_steps(self) -> Path:
        """The steps of the snapshots that became artifacts and were removed."""
        return self.root / "snapshots.json"

    def member(self, number: int) -> Path:
        """Return the working folder of one member of an ensemble, from 0."""
        return self.root / "members" / f"{number:02d}"

    @property
    def finished(self) -> Path:
        """What a trained member of a reward model gave."""
        return self.root / "finished.json"

    def repair(self, name: str) -> StageFolder:
        """Return the working folder of a repair that trains the stage again."""
        return StageFolder(self.root / "repairs" / name)

    @property
    def preview(self) -> Path:
        """Some rows as trained: tokens, sources, trainable flags."""
        return self.root / "rows.json"


class EvaluationFolder:
    """Paths of what one policy was measured on; a task is named by its own name and by what it holds."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def items(self, task: str, task_hash: str, seed: int = 0) -> Path:
        """Return the file of a task's evaluated items, one JSON line each."""
        return self.root / f"{_name_task(task, task_hash, seed)}.jsonl"

    def card(self, task: str, task_hash: str, seed: int = 0) -> Path:
        """Return the file that says what was measured, and how."""
        return self.root / f"{_name_task(task, task_hash, seed)}.json"


def _name_task(task: str, task_hash: str, seed: int) -> str:
    return f"{task}-{task_hash[:TASK_HASH_LENGTH]}" + (f"-seed{seed}" if seed else "")


class FolderLock:
    """An exclusive `flock` on a folder, released by the kernel however the process ends.

    Raises:
        LockedError: Another process works here.
        StorageError: The lock file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def __enter__(self) -> FolderLock:
        with storage_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 200).decode("utf-8", "replace").strip()
            os.close(descriptor)
            raise LockedError(
                f"another process is working in this folder{' (' + holder + ')' if holder else ''}",
                expected="one run per folder at a time",
                cure="wait for it, stop it, or give this run another folder with --folder",
                place=str(self.path.parent),
            ) from None
        try:
            with storage_errors(self.path):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps({"pid": os.getpid()}).encode(), 0)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
