"""Model folders that are wrong, torn or hostile: each is one error with a place and a cure, and nothing runs."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from posttrain.core.errors import ModelError
from posttrain.models.loading import load_policy, load_tokenizer
from posttrain.models.validation import check_model_folder
from tests.models.bad_folders import BAD, set_pre_tokenizer
from tests.models.tiny_models import edit_config, edit_weights, save_tiny

_opened: list[str] = []
_is_watching = [False]


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _is_watching[0] and event == "open" and isinstance(arguments[0], str | bytes):
        _opened.append(os.fsdecode(arguments[0]))


sys.addaudithook(_watch)


@pytest.fixture(scope="module")
def good_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("good")
    return {name: save_tiny(root / name, name) for name in ("llama", "qwen2")}


@pytest.fixture
def folder(good_folders: dict[str, Path], tmp_path: Path) -> Path:
    """A good Llama folder to spoil; `outside` beside it must never be read."""
    (tmp_path / "outside").mkdir()
    shutil.copyfile(good_folders["llama"] / "model.safetensors", tmp_path / "outside" / "model.safetensors")
    shutil.copyfile(good_folders["llama"] / "tokenizer.json", tmp_path / "outside" / "tokenizer.json")
    return Path(shutil.copytree(good_folders["llama"], tmp_path / "model"))


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Callable[[], list[str]]]:
    """Watch every file that Python opens; returns those under `outside`."""
    _opened.clear()
    _is_watching[0] = True
    yield lambda: [path for path in _opened if path.startswith(str(tmp_path / "outside"))]
    _is_watching[0] = False


@pytest.mark.parametrize("case", BAD)
def test_a_bad_folder_is_one_error_with_place_and_cure(
    case: str, folder: Path, watched: Callable[[], list[str]], capfd: pytest.CaptureFixture[str]
) -> None:
    spoil, place, finding = BAD[case]
    spoil(folder)
    _opened.clear()
    with pytest.raises(ModelError) as caught:
        load_policy(folder, dtype="float32")
    assert place in caught.value.place, caught.value
    assert finding in caught.value.found, caught.value
    assert caught.value.found and caught.value.expected and caught.value.cure
    assert len(str(caught.value)) < 2000
    assert not watched(), "a file outside the folder was opened"
    assert not (folder / "ran").exists(), "code of the folder was run"
    assert "Traceback" not in "".join(capfd.readouterr())


def test_absurd_sizes_are_refused_before_anything_is_built(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a tensor was made")

    edit_config(folder, vocab_size=10**12)
    monkeypatch.setattr(torch, "empty", refuse)
    with pytest.raises(ModelError, match="vocab_size"):
        check_model_folder(folder)


def test_a_vocabulary_beyond_the_weights_is_refused_on_the_meta_device(folder: Path) -> None:
    """4,000,000 rows of 100,000 floats would be 1.6 TB: the shapes are compared without memory."""
    edit_config(folder, vocab_size=4_000_000, hidden_size=100_000)
    with pytest.raises(ModelError, match=r"shape \[4000000, 100000\]"):
        check_model_folder(folder)


def test_the_tokenizer_alone_is_guarded_too(folder: Path) -> None:
    set_pre_tokenizer(folder, "([")
    with pytest.raises(ModelError, match="trial in a sandbox"):
        load_tokenizer(folder)


def test_a_hugging_face_cache_snapshot_of_links_is_accepted(folder: Path, tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--owner--name"
    snapshot = repository / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for number, path in enumerate(sorted(folder.iterdir())):
        shutil.copyfile(path, repository / "blobs" / f"{number:040x}")
        (snapshot / path.name).symlink_to(f"../../blobs/{number:040x}")
    policy = load_policy(snapshot, dtype="float32")
    assert torch.equal(policy.model.lm_head.weight, load_policy(folder, dtype="float32").model.lm_head.weight)

    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to("../../../../outside/config.json")
    with pytest.raises(ModelError, match="leads out"):
        load_policy(snapshot, dtype="float32")


def test_a_tied_head_may_be_stored_twice_alike_or_under_the_heads_name(
    good_folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(good_folders["qwen2"], tmp_path / "tied"))
    embedding = load_policy(folder, dtype="float32").model.model.embed_tokens.weight.detach().clone()
    edit_weights(folder, lm_head__weight=embedding)
    both = load_policy(folder, dtype="float32").model
    edit_weights(folder, model__embed_tokens__weight=None)
    head_only = load_policy(folder, dtype="float32").model
    for model in (both, head_only):
        assert model.lm_head.weight is model.model.embed_tokens.weight
        assert torch.equal(model.lm_head.weight, embedding)
    edit_weights(folder, lm_head__weight=None)
    with pytest.raises(ModelError, match="embed_tokens"):
        load_policy(folder, dtype="float32")
