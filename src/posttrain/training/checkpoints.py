"""Checkpoints that survive being killed: safetensors and JSON, a manifest with sha256 written last.

A checkpoint is a folder that appears by one rename after everything in it is on the disk. Loading takes
the newest one whose every file matches the manifest; a torn one is set aside under another name and the
one before it is used. The manifest holds its own hash too. No pickle is ever read.
"""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from posttrain.core.durable import read_json, remove_temporaries, storage_errors, write_folder, write_json
from posttrain.core.errors import StorageError
from posttrain.core.hashing import hash_json, sha256_file
from posttrain.core.native_library import describe_compiler
from posttrain.core.run_folder import CHECKPOINT_MANIFEST

_TENSORS = "state.safetensors"
_STATE = "state.json"
_TORN = ".torn"
_STEP = "step-"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A verified checkpoint: the step it was taken after, its tensors and its JSON state."""

    step: int
    tensors: dict[str, torch.Tensor]
    state: dict[str, Any]
    set_aside: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class CheckpointStore:
    """The checkpoints of one stage.

    Args:
        folder: Where they are kept.
        keep: How many of the newest to keep; at least 2, so that one torn checkpoint loses little.
    """

    def __init__(self, folder: Path, *, keep: int = 2) -> None:
        self.folder = folder
        self.keep = max(2, keep)

    def save(self, step: int, tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> Path:
        """Write a checkpoint whole or not at all, then remove the oldest beyond `keep`.

        Raises:
            StorageError: The disk is full or unwritable; earlier checkpoints are untouched.
        """
        target = self._folder(step)
        remove_temporaries(self.folder)
        if target.exists():
            # Left by a run that was killed after it: torn, or of weights that are not these to the last bit.
            self._set_aside(target)

        def fill(folder: Path) -> None:
            contiguous = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
            with storage_errors(folder / _TENSORS):
                try:
                    save_file(contiguous, folder / _TENSORS)
                except SafetensorError as error:  # its own class, also for a full disk
                    raise OSError(str(error)) from error
                (folder / _STATE).write_text(json.dumps(state, allow_nan=False), encoding="utf-8")
            files = {name: sha256_file(folder / name) for name in (_TENSORS, _STATE)}
            manifest = {"step": step, "files": files, "machine": describe_machine()}
            write_json(folder / CHECKPOINT_MANIFEST, {**manifest, "hash": hash_json(manifest)})

        write_folder(target, fill)
        for old in self._folders()[: -self.keep]:
            shutil.rmtree(old, ignore_errors=True)
        return target

    def load_newest(self) -> Checkpoint | None:
        """Return the newest checkpoint that is whole, or None; torn ones are set aside and named."""
        set_aside = []
        for folder in reversed(self._folders()):
            problem = self._problem(folder)
            if problem is not None:
                set_aside.append(f"{folder.name}: {problem}")
                self._set_aside(folder)
                continue
            return replace(self._read(folder), set_aside=tuple(set_aside))
        return Checkpoint(-1, {}, {}, tuple(set_aside)) if set_aside else None

    def load(self, step: int) -> Checkpoint:
        """Return the checkpoint of one step.

        Raises:
            StorageError: It is missing or torn.
        """
        folder = self._folder(step)
        problem = self._problem(folder)
        if problem is not None:
            raise StorageError(
                f"the checkpoint of step {step} cannot be used: {problem}",
                expected="the files that its manifest lists",
                cure="delete the stage's working folder and start the run again",
                place=str(folder),
            )
        return self._read(folder)

    @property
    def is_empty(self) -> bool:
        """Whether there is no checkpoint to go on from; one that is there may yet be found torn."""
        return not self._folders()

    def list_whole(self) -> list[int]:
        """Return the steps of the checkpoints whose every file matches its manifest, the earliest first."""
        whole = [folder for folder in self._folders() if self._problem(folder) is None]
        return [int(folder.name.removeprefix(_STEP)) for folder in whole]

    def keep_only(self, steps: Collection[int]) -> None:
        """Remove the checkpoints of all other steps, and what was set aside."""
        kept = {self._folder(step) for step in steps}
        for folder in self.folder.glob(f"{_STEP}*"):
            if folder not in kept:
                shutil.rmtree(folder, ignore_errors=True)

    def clear(self) -> None:
        """Remove all checkpoints: the stage's artifact has taken their place."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _folder(self, step: int) -> Path:
        return self.folder / f"{_STEP}{step:08d}"

    def _read(self, folder: Path) -> Checkpoint:
        manifest = read_json(folder / CHECKPOINT_MANIFEST)
        machine = describe_machine()
        changed = [
            f"{name} was {was} and is {machine.get(name)}"
            for name, was in manifest["machine"].items()
            if machine.get(name) != was
        ]
        tensors = load_file(folder / _TENSORS)
        return Checkpoint(manifest["step"], tensors, read_json(folder / _STATE), warnings=tuple(changed))

    def _folders(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(p for p in self.folder.glob(f"{_STEP}*") if p.is_dir() and not p.name.endswith(_TORN))

    def _set_aside(self, folder: Path) -> None:
        target = folder.with_name(folder.name + _TORN)
        shutil.rmtree(target, ignore_errors=True)
        with suppress(OSError):
            folder.rename(target)

    def _problem(self, folder: Path) -> str | None:
        """Return what is wrong with a checkpoint, or None if every file matches its manifest."""
        try:
            manifest = read_json(folder / CHECKPOINT_MANIFEST)
            if manifest.pop("hash") != hash_json(manifest):
                return f"{CHECKPOINT_MANIFEST} does not match its own hash"
            files = manifest["files"]
            for name in (_TENSORS, _STATE):
                if sha256_file(folder / name) != files[name]:
                    return f"{name} does not match its sha256"
        except StorageError as error:
            return error.found
        except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            return f"{type(error).__name__}: {error}"
        return None


def describe_machine() -> dict[str, str]:
    """Return what decides the bits of a result beside the recipe: library versions, threads, processor."""
    import transformers

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": str(torch.get_num_threads()),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "compiler": describe_compiler(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }
