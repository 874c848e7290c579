"""Finished artifacts of a run folder, found by the key of what made them and named by their content."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from posttrain.core.durable import fsync_folder, read_json, remove_temporaries, storage_errors, write_json
from posttrain.core.errors import StorageError
from posttrain.core.records import Artifact
from posttrain.core.run_folder import RunFolder, StageFolder
from posttrain.models.manifest import find_differences, load_manifest

_KEYS = "keys"
_INCOMING = "incoming-"


class ArtifactStore:
    """The artifacts of one run folder.

    `key` is the hash of configuration, inputs and stage version; `hash` that of the artifact's files.
    An artifact is never changed; one that no longer matches its manifest is set aside and made again.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.root = folder.artifacts

    def find(self, key: str) -> Artifact | None:
        """Return the artifact that a key made, if it is there and every file is as its manifest says."""
        index = self._index(key)
        if not index.is_file():
            return None
        try:
            found = read_json(index)
            artifact = Artifact(found["kind"], key, found["hash"], str(self.root / found["hash"]))
            is_whole = not find_differences(Path(artifact.folder))
        except (StorageError, KeyError, TypeError, OSError):
            return None
        if not is_whole:
            return None
        return artifact

    def describe_loss(self, key: str) -> str:
        """Return why an artifact that was made once cannot be used, or an empty text."""
        return "its artifact no longer matches its manifest" if self._index(key).is_file() else ""

    def add(self, key: str, save: Callable[[Path], object]) -> Artifact:
        """Have an artifact written and give it its name by content.

        Args:
            key: The key of what made it.
            save: Writes the artifact, manifest included, into the folder that it is given.

        Raises:
            StorageError: It cannot be written.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        remove_temporaries(self.root)
        incoming = self.root / f"{_INCOMING}{key}"
        shutil.rmtree(incoming, ignore_errors=True)
        save(incoming)
        manifest = load_manifest(incoming)
        target = self.root / manifest.hash
        with storage_errors(target):
            if target.exists() and find_differences(target):
                aside = target.with_name(target.name + ".damaged")
                shutil.rmtree(aside, ignore_errors=True)
                target.rename(aside)
            if target.exists():
                shutil.rmtree(incoming)
            else:
                os.replace(incoming, target)
                fsync_folder(self.root)
        write_json(self._index(key), {"kind": manifest.kind, "hash": manifest.hash})
        return Artifact(manifest.kind, key, manifest.hash, str(target))  # type: ignore[arg-type]  # checked by load_manifest

    def _index(self, key: str) -> Path:
        return self.root / _KEYS / f"{key}.json"


def claim_stage_folder(folder: StageFolder, key: str) -> str | None:
    """Make a stage's working folder the one of `key`; what another key left there is kept under another name.

    Returns:
        The name under which earlier work was kept, or None.
    """
    with storage_errors(folder.root):
        kept = None
        if folder.root.exists():
            before = folder.key.read_text().strip() if folder.key.is_file() else "unknown"
            if before == key:
                return None
            aside = folder.root.with_name(f"{folder.root.name}.superseded-{before[:8]}")
            shutil.rmtree(aside, ignore_errors=True)
            folder.root.rename(aside)
            kept = aside.name
        folder.root.mkdir(parents=True)
        folder.key.write_text(key + "\n")
    return kept
