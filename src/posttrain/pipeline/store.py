"""Finished artifacts of a run folder, found by the key of what made them and named by their content."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from posttrain.core.durable import (
    fsync_folder,
    read_json,
    remove_temporaries,
    storage_errors,
    write_folder,
    write_json,
)
from posttrain.core.errors import StorageError
from posttrain.core.records import Artifact
from posttrain.core.run_folder import RunFolder, StageFolder
from posttrain.models.manifest import find_differences, load_manifest

_KEYS = "keys"
_INCOMING = "incoming-"
_MAX_KEY = 64


class ArtifactStore:
    """The artifacts of one run folder.

    `key` is the hash of configuration, inputs and stage version; `hash` that of the artifact's files.
    An artifact is never changed; one that no longer matches its manifest is set aside and made again.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.root = folder.artifacts

    def find(self, key: str) -> Artifact | None:
        """Return the artifact that a key made, if it is there and every file is as its manifest says."""
        artifact = self.read(key)
        try:
            is_whole = artifact is not None and _holds(Path(artifact.folder), artifact.hash)
        except (StorageError, OSError):
            return None
        return artifact if is_whole else None

    def read(self, key: str) -> Artifact | None:
        """Return the artifact that a key made as the index names it; its files are not looked at (`find` does)."""
        index = self._index(key)
        if not index.is_file():
            return None
        try:
            found = read_json(index)
            return Artifact(found["kind"], key, found["hash"], str(self.root / found["hash"]))
        except (StorageError, KeyError, TypeError):
            return None

    def locate(self, key: str) -> Path:
        """Return the file that says which artifact a key made."""
        return self._index(key)

    def describe_loss(self, key: str) -> str:
        """Return why an artifact that was made once cannot be used, or an empty text."""
        return "its artifact is damaged or gone" if self._index(key).is_file() else ""

    def add(self, key: str, save: Callable[[Path], object]) -> Artifact:
        """Have an artifact written and give it its name by content.

        Args:
            key: The key of what made it.
            save: Writes the artifact, manifest included, into the folder that it is given.

        Raises:
            StorageError: It cannot be written.
        """
        incoming = self.root / f"{_INCOMING}{key}"
        with storage_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
        remove_temporaries(self.root)
        shutil.rmtree(incoming, ignore_errors=True)
        save(incoming)
        manifest = load_manifest(incoming)
        target = self.root / manifest.hash
        with storage_errors(target):
            if target.exists() and not _holds(target, manifest.hash):
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


def _holds(folder: Path, name: str) -> bool:
    """Return whether a folder is a whole artifact, and the one of this name."""
    return not find_differences(folder) and load_manifest(folder).hash == name


class WorkingFolders:
    """The folders that stages and measurements work in, each with a `key` file that says whose it is.

    A folder that another configuration worked in is never written to: it is moved into `superseded/`, and
    comes back from there when its configuration does.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run

    def claim(self, folder: Path, key: str) -> str | None:
        """Make a folder the one of `key`, with what this key left in it before, if anything.

        Returns:
            The name under which another key's work is kept now, or None.

        Raises:
            StorageError: The folder cannot be written.
        """
        with storage_errors(folder):
            kept = None
            if folder.exists():
                if read_folder_key(folder) == key:
                    remove_temporaries(folder)
                    return None
                kept = self.set_aside(folder)
            earlier = self._name_kept(folder, key)
            if earlier.is_dir():
                earlier.rename(folder)
                fsync_folder(folder.parent)
            else:
                write_folder(folder, lambda target: _write_key(target, key))
        return kept

    def set_aside(self, folder: Path) -> str:
        """Move a folder into `superseded/` and return its name there."""
        with storage_errors(folder):
            named = kept = self._name_kept(folder, read_folder_key(folder) or "unknown")
            number = 1
            while kept.exists():
                number += 1
                kept = named.with_name(f"{named.name}.{number}")
            kept.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(kept)
            fsync_folder(kept.parent)
        return kept.relative_to(self.run.root).as_posix()

    def set_aside_strangers(self, expected: Iterable[Path]) -> list[str]:
        """Move every stage's folder that the recipe does not have into `superseded/` and return their names there."""
        known = set(expected)
        found = sorted(self.run.stages.iterdir()) if self.run.stages.is_dir() else []
        return [self.set_aside(folder) for folder in found if folder.is_dir() and folder not in known]

    def _name_kept(self, folder: Path, key: str) -> Path:
        return self.run.superseded / "-".join([*folder.relative_to(self.run.root).parts, key])


def _write_key(folder: Path, key: str) -> None:
    StageFolder(folder).key.write_text(key + "\n", encoding="utf-8")


def read_folder_key(folder: Path) -> str:
    """Return the key that a working folder belongs to, or an empty text."""
    path = StageFolder(folder).key
    return path.read_text(encoding="utf-8", errors="replace").strip()[:_MAX_KEY] if path.is_file() else ""
