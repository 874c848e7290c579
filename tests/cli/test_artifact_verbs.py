"""`verify`, `merge` and `export` on artifacts of a tiny model: what they accept, name and write."""

from __future__ import annotations

import contextlib
import json
import re
import runpy
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from posttrain.models.adapters import LoraSettings, prepare_policy
from posttrain.models.artifacts import save_policy
from posttrain.models.loading import load_policy
from posttrain.models.manifest import ArtifactFacts
from tests.cli.commands import run_here
from tests.models.tiny_models import TEMPLATE, disturb, save_tiny

FACTS = ArtifactFacts(
    TEMPLATE,
    "0" * 32,
    (1, 2),
    chat={"date": "2024-07-26", "template_arguments": {}},
    key="k",
    parents=(),
    config={},
    ledger={},
)


def save_artifact(folder: Path, settings: LoraSettings | None) -> Path:
    policy = load_policy(save_tiny(folder / "base"), dtype="float32")
    policy = prepare_policy(policy, settings, existing="continue", name="sft", seed=1)
    disturb(policy.model.named_parameters())
    save_policy(policy, folder / "artifact", FACTS, weights_dtype="float32")
    return folder / "artifact"


def test_a_damaged_artifact_is_exit_code_4_and_the_file_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    artifact = save_artifact(tmp_path, None)
    found = run_here(capsys, "verify", artifact, "--json")
    assert found.code == 0 and len(json.loads(found.out)["hash"]) == 32
    config = artifact / "config.json"
    config.write_bytes(config.read_bytes().replace(b"32", b"33", 1))
    found = run_here(capsys, "verify", artifact)
    assert found.code == 4 and "config.json" in found.err
    assert run_here(capsys, "verify", tmp_path / "missing").code in (4, 74)


def test_an_artifact_with_an_adapter_is_merged_into_a_folder_that_transformers_loads(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    artifact = save_artifact(tmp_path, LoraSettings(rank=4))
    found = run_here(capsys, "merge", artifact, tmp_path / "merged", "--json")
    assert found.code == 0, found.err
    assert json.loads(found.out)["num_conversations"] >= 5
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "merged").config.model_type == "llama"
    found = run_here(capsys, "merge", artifact, tmp_path / "merged")
    assert found.code == 74 and "exists" in found.err


def run_code_of_card(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Run what the model card of a folder shows, as somebody does who copies it there."""
    (code,) = re.findall(r"^```python\n(.*?)^```", (folder / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    capsys.readouterr()
    with contextlib.chdir(folder):
        Path("usage.py").write_text(code)
        runpy.run_path("usage.py")
    assert capsys.readouterr().out.endswith("\n")


def test_an_artifact_without_adapters_is_exported_and_not_merged(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    artifact = save_artifact(tmp_path, None)
    found = run_here(capsys, "merge", artifact, tmp_path / "out")
    assert found.code == 4 and f"posttrain export {artifact}" in found.err
    found = run_here(capsys, "export", artifact, tmp_path / "out", "--dtype", "bfloat16")
    assert found.code == 0 and "(bfloat16)" in found.out and "greedy tokens" in found.out
    run_code_of_card(tmp_path / "out", capsys)
    assert run_here(capsys, "export", tmp_path / "base", tmp_path / "other").code == 4
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("verb", [("verify",), ("export", "out"), ("merge", "out")])
def test_the_folder_of_a_run_is_no_artifact_and_the_cure_names_those_in_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, verb: tuple[str, ...]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text("{}")
    found = run_here(capsys, verb[0], run, *(tmp_path / name for name in verb[1:]))
    assert found.code == 4 and "go on with the run" in found.err
    (run / "artifacts" / "abc").mkdir(parents=True)
    (run / "artifacts" / "abc" / "manifest.json").write_text("{}")
    found = run_here(capsys, verb[0], run, *(tmp_path / name for name in verb[1:]))
    assert found.code == 4 and str(run / "artifacts" / "abc") in found.err
    assert not (tmp_path / "out").exists()
