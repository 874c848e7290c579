"""The manifest of an artifact: what it is, where it came from, and the digest of each of its files.

`hash` names the content: it is the hash of all files but the manifest. `manifest_hash` covers the
manifest's own other fields, and its bytes have one form, so that a change to any byte of any file of an
artifact is found.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from posttrain.core.durable import read_json, write_text
from posttrain.core.errors import ModelError, StorageError
from posttrain.core.hashing import hash_digests, hash_json, sha256_file
from posttrain.core.run_folder import ARTIFACT_MANIFEST

SCHEMA = 1
_OPTIONAL = {"overrides"}
"""Fields that a manifest of this schema may lack."""
_LIBRARIES = ("posttrain", "torch", "transformers", "peft", "tokenizers", "safetensors")


@dataclass(frozen=True, slots=True)
class ArtifactFacts:
    """What the maker of an artifact knows of it, beside its weights.

    Args:
        chat_template: The template's text, or None for none.
        template_hash: The hash of the chat format it was trained with.
        stop_ids: Token ids that end a turn; they become generation_config.json's eos_token_id.
        chat: The rest of the chat format, so that a later stage renders alike: `date`, `template_arguments`.
        key: Hash of configuration and inputs, for the cache.
        parents: Hashes of the artifacts it was made from.
        config: The stage's identity configuration.
        ledger: What became of every data row.
        kind: What the folder holds.
        overrides: The checks that were refused and let through while it was made.
    """

    chat_template: str | None
    template_hash: str
    stop_ids: Sequence[int]
    chat: dict[str, Any] = field(default_factory=dict)
    key: str = ""
    parents: Sequence[str] = ()
    config: dict[str, Any] = field(default_factory=dict)
    ledger: dict[str, Any] = field(default_factory=dict)
    kind: Literal["policy", "reward_model", "evaluation"] = "policy"
    overrides: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Manifest:
    """An artifact's manifest.json (see the module's docstring); `files` maps names to sha256 and bytes."""

    schema: int
    kind: str
    hash: str
    key: str
    base_hash: str
    adapters: list[str]
    stop_ids: list[int]
    template_hash: str
    chat: dict[str, Any]
    parents: list[str]
    config: dict[str, Any]
    versions: dict[str, str]
    ledger: dict[str, Any]
    files: dict[str, dict[str, Any]]
    overrides: list[str] = field(default_factory=list)
    manifest_hash: str = ""


def write_manifest(folder: Path, facts: ArtifactFacts, base_hash: str, adapters: Sequence[str]) -> Manifest:
    """Hash every file of a filled folder, write its manifest, and return it."""
    files: dict[str, dict[str, Any]] = {
        name: {"sha256": sha256_file(folder / name), "bytes": (folder / name).stat().st_size}
        for name in _list_files(folder)
    }
    values: dict[str, Any] = {
        "schema": SCHEMA,
        "kind": facts.kind,
        "hash": hash_digests({name: entry["sha256"] for name, entry in files.items()}),
        "key": facts.key,
        "base_hash": base_hash,
        "adapters": list(adapters),
        "stop_ids": list(facts.stop_ids),
        "template_hash": facts.template_hash,
        "chat": facts.chat,
        "parents": list(facts.parents),
        "config": facts.config,
        "versions": _list_versions(),
        "ledger": facts.ledger,
        "files": files,
        "overrides": list(facts.overrides),
    }
    manifest = Manifest(**values, manifest_hash=hash_json(values))
    write_text(folder / ARTIFACT_MANIFEST, _serialise(asdict(manifest)))
    return manifest


def load_manifest(folder: Path) -> Manifest:
    """Return an artifact's manifest, having checked that it is as it was written.

    Raises:
        ModelError: Missing, torn, edited, or of a later schema.
    """
    path = folder / ARTIFACT_MANIFEST
    cure = "take the artifact from where it was made, or run the stage again"
    try:
        values = read_json(path)
    except (StorageError, RecursionError) as error:
        raise ModelError(
            str(getattr(error, "found", error)), expected="a manifest", cure=cure, place=str(path)
        ) from None
    names = set(Manifest.__dataclass_fields__)
    if not isinstance(values, dict) or not names - _OPTIONAL <= set(values) <= names or values["schema"] != SCHEMA:
        found = values.get("schema") if isinstance(values, dict) else type(values).__name__
        raise ModelError(f"schema {found!r}", expected=f"a manifest of schema {SCHEMA}", cure=cure, place=str(path))
    content = {name: value for name, value in values.items() if name != "manifest_hash"}
    if hash_json(content) != values["manifest_hash"] or path.read_text(encoding="utf-8") != _serialise(values):
        raise ModelError(
            "it was changed after it was written", expected="the manifest's own hash", cure=cure, place=str(path)
        )
    return Manifest(**values)


def find_differences(folder: Path) -> list[str]:
    """Return one line for every way in which an artifact differs from what was written; empty means whole.

    Every file is hashed again: a truncation, a flipped bit, a file gone, emptied or added is found.
    """
    try:
        manifest = load_manifest(folder)
    except ModelError as error:
        return [f"{ARTIFACT_MANIFEST}: {error.found}"]
    present = _list_files(folder)
    differences = [f"{name}: missing" for name in sorted(set(manifest.files) - set(present))]
    differences += [f"{name}: not in the manifest" for name in sorted(set(present) - set(manifest.files))]
    for name in sorted(set(manifest.files) & set(present)):
        entry, path = manifest.files[name], folder / name
        if path.is_symlink() or not path.is_file():
            differences.append(f"{name}: not a plain file")
        elif path.stat().st_size != entry["bytes"]:
            differences.append(f"{name}: {path.stat().st_size:,} bytes instead of {entry['bytes']:,}")
        elif sha256_file(path) != entry["sha256"]:
            differences.append(f"{name}: its content has changed")
    digests = {name: entry["sha256"] for name, entry in manifest.files.items()}
    if hash_digests(digests) != manifest.hash:
        differences.append(f"{ARTIFACT_MANIFEST}: its hash is not that of its files")
    return differences


def verify_artifact(folder: Path) -> Manifest:
    """Return the manifest of an artifact whose every file is as it was written.

    Raises:
        ModelError: Names every difference.
    """
    differences = find_differences(folder)
    if differences:
        raise ModelError(
            f"{len(differences)} difference{'s' if len(differences) > 1 else ''}: " + "; ".join(differences),
            expected="the files as they were written",
            cure="take the artifact from where it was made, or run the stage again",
            place=str(folder),
        )
    return load_manifest(folder)


def _list_files(folder: Path) -> list[str]:
    """Return the relative names of everything below a folder that is no folder, without the manifest."""
    names = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_symlink() or not p.is_dir())
    return sorted(name for name in names if name != ARTIFACT_MANIFEST)


def _serialise(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _list_versions() -> dict[str, str]:
    versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return {"python": platform.python_version(), **versions}
