"""Manifests: equal content is equal bytes, and any damage to any file is found and named."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from posttrain.core.errors import ModelError
from posttrain.models.artifacts import save_policy
from posttrain.models.loading import load_policy
from posttrain.models.manifest import find_differences, load_manifest, verify_artifact, write_manifest
from tests.models.tiny_models import FACTS, save_tiny, train_lora


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bases")
    return {name: save_tiny(root / name, name) for name in ("llama", "qwen2", "qwen3")}


_SAVE_TWO = """
import sys
from pathlib import Path
from posttrain.models.adapters import prepare_policy
from posttrain.models.artifacts import save_policy
from posttrain.models.loading import load_policy
from tests.models.tiny_models import FACTS, SETTINGS, disturb
for kind, settings in (("full", None), ("lora", SETTINGS)):
    policy = load_policy(Path(sys.argv[1]), dtype="float32")
    policy = prepare_policy(policy, settings, existing="continue", name="sft", seed=1)
    disturb(policy.model.named_parameters(), 1)
    save_policy(policy, Path(sys.argv[2]) / kind, FACTS)
"""


@pytest.mark.invariants
def test_equal_content_is_equal_bytes_also_in_another_process(bases: dict[str, Path], tmp_path: Path) -> None:
    """The processes have different hash seeds, so that a set written in its order would differ."""
    root = Path(__file__).resolve().parents[2]
    folders = [tmp_path / "first", tmp_path / "somewhere" / "else"]
    for number, folder in enumerate(folders):
        environment = os.environ | {"PYTHONHASHSEED": str(number), "PYTHONPATH": f"{root}/src:{root}"}
        command = [sys.executable, "-c", _SAVE_TWO, str(bases["qwen3"]), str(folder)]
        subprocess.run(command, env=environment, check=True, cwd=tmp_path)
    one, two = folders
    names = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert len(names) > 14 and names == sorted(path.relative_to(two) for path in two.rglob("*") if path.is_file())
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names)
    assert all(load_manifest(one / kind).hash == load_manifest(two / kind).hash for kind in ("full", "lora"))
    for text in (str(tmp_path), str(bases["qwen3"].parent)):
        assert not any(text.encode() in (one / name).read_bytes() for name in names), "a path of this machine"


def test_loading_and_saving_again_gives_the_same_bytes(bases: dict[str, Path], tmp_path: Path) -> None:
    save_policy(train_lora(bases["qwen2"]), tmp_path / "a", FACTS, weights_dtype="float32")
    save_policy(load_policy(tmp_path / "a", dtype="float32"), tmp_path / "b", FACTS, weights_dtype="float32")
    assert load_manifest(tmp_path / "a").hash == load_manifest(tmp_path / "b").hash
    assert (tmp_path / "a/manifest.json").read_bytes() == (tmp_path / "b/manifest.json").read_bytes()


def test_another_weight_is_another_hash(bases: dict[str, Path], tmp_path: Path) -> None:
    policy = load_policy(bases["llama"], dtype="float32")
    first = save_policy(policy, tmp_path / "a", FACTS, weights_dtype="float32")
    with torch.no_grad():
        policy.model.model.norm.weight[0] += 1e-3
    second = save_policy(policy, tmp_path / "b", FACTS, weights_dtype="float32")
    assert first.hash != second.hash and first.base_hash != second.base_hash


def _damage(path: Path) -> dict[str, Callable[[], Any]]:
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[len(flipped) // 2] ^= 0x10
    return {
        "truncated": lambda: path.write_bytes(content[:-1]),
        "flipped": lambda: path.write_bytes(bytes(flipped)),
        "deleted": path.unlink,
        "emptied": lambda: path.write_bytes(b""),
        "longer": lambda: path.write_bytes(content + b"\n"),
        "linked": lambda: (path.rename(path.with_name(path.name + ".away")), path.symlink_to(path.name + ".away")),
    }


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_every_damage_to_every_file_is_found_and_named(kind: str, bases: dict[str, Path], tmp_path: Path) -> None:
    policy = train_lora(bases["llama"]) if kind == "lora" else load_policy(bases["llama"], dtype="float32")
    save_policy(policy, tmp_path / "whole", FACTS)
    assert find_differences(tmp_path / "whole") == []
    names = [path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*") if path.is_file()]
    assert len(names) >= 7
    for name in names:
        for action in _damage(tmp_path / "whole" / name):
            # Copied, so that hard links to the base's own files are not written through.
            folder = Path(shutil.copytree(tmp_path / "whole", tmp_path / "damaged"))
            _damage(folder / name)[action]()
            differences = find_differences(folder)
            assert any(name.as_posix() in line for line in differences), (name, action)
            with pytest.raises(ModelError, match="difference"):
                verify_artifact(folder)
            shutil.rmtree(folder)
    for place in ("extra.bin", "base/extra.safetensors", ".hidden"):
        folder = Path(shutil.copytree(tmp_path / "whole", tmp_path / "damaged"))
        (folder / place).parent.mkdir(exist_ok=True)
        (folder / place).write_bytes(b"x")
        assert any(place in line for line in find_differences(folder))
        shutil.rmtree(folder)


def test_every_bit_of_the_manifest_counts(bases: dict[str, Path], tmp_path: Path) -> None:
    save_policy(load_policy(bases["llama"], dtype="float32"), tmp_path / "a", FACTS)
    path = tmp_path / "a" / "manifest.json"
    content = path.read_bytes()
    for position in range(0, len(content), 7):
        changed = bytearray(content)
        changed[position] ^= 1 << position % 8
        path.write_bytes(bytes(changed))
        assert find_differences(tmp_path / "a"), position
    path.write_bytes(content)
    assert not find_differences(tmp_path / "a")


def test_a_damaged_artifact_is_not_loaded(bases: dict[str, Path], tmp_path: Path) -> None:
    save_policy(load_policy(bases["llama"], dtype="float32"), tmp_path / "a", FACTS)
    (tmp_path / "a" / "chat_template.jinja").write_text("{{ 'other' }}")
    with pytest.raises(ModelError, match=r"chat_template\.jinja"):
        load_policy(tmp_path / "a", dtype="float32")


def test_an_artifact_whose_base_was_exchanged_is_refused_even_with_a_matching_manifest(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    """The files are re-listed in a new manifest that still names the first base's hash."""
    save_policy(train_lora(bases["llama"]), tmp_path / "a", FACTS)
    base_hash = load_manifest(tmp_path / "a").base_hash
    other = save_tiny(tmp_path / "other", "llama", seed=4)
    shutil.copyfile(other / "model.safetensors", tmp_path / "copy")
    os.replace(tmp_path / "copy", tmp_path / "a" / "base" / "model.safetensors")
    (tmp_path / "a" / "manifest.json").unlink()
    write_manifest(tmp_path / "a", FACTS, base_hash, ["00-sft"])
    with pytest.raises(ModelError, match="for which the artifact was made"):
        load_policy(tmp_path / "a", dtype="float32")
