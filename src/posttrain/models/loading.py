"""From a name to a policy in memory: Hub id or folder, checked, then loaded without running anything of it.

Weights are read from the files that the checks saw and handed to transformers as tensors; transformers
itself opens no weight file, follows no index and looks for no adapter.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import torch

from posttrain.core.errors import ModelError
from posttrain.core.run_folder import ARTIFACT_MANIFEST
from posttrain.models.adapter_files import load_adapter
from posttrain.models.architectures import find_configuration_class
from posttrain.models.loaded_policy import LoadedPolicy
from posttrain.models.manifest import verify_artifact
from posttrain.models.tokenizer_files import TOKENIZER_FILE, check_tokenizer_files
from posttrain.models.validation import (
    CONFIG_FILE,
    CheckedModel,
    check_links,
    check_model_folder,
    quiet_transformers,
    read_config,
)
from posttrain.models.weights import hash_weights, load_tensors, read_json_object

BASE_FOLDER = "base"
ADAPTERS_FOLDER = "adapters"
GENERATION_FILE = "generation_config.json"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_ORDINARY_TEXT = "The quick brown fox jumps over the lazy dog and goes home"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_HUB_FILES = [
    "*.safetensors",
    "*.safetensors.index.json",
    "*.json",
    "*.jinja",
    "tokenizer.model",
    "vocab.*",
    "merges.txt",
]
_HUB_LEFT_OUT = ["*/*", "consolidated*", "*.bin", "*.pt", "*.pth", "*.py"]
_Result = TypeVar("_Result")


def resolve_model(reference: str, *, revision: str | None = None, root: Path) -> Path:
    """Return the folder of a model, downloading it where a Hub id is meant.

    Args:
        reference: A folder (absolute, or relative to `root`), or a Hub id `owner/name`; `hub:owner/name`
            means the Hub whatever lies on disk.
        revision: A branch, tag or commit; only for a Hub id.
        root: What relative paths are relative to.

    Raises:
        ModelError: No such folder and no Hub id, or the Hub cannot be reached or does not have it.
    """
    name = reference.removeprefix("hub:")
    folder = root / name
    if name == reference and folder.is_dir():
        return folder
    if not _HUB_ID.fullmatch(name) or reference.startswith((".", "/", "~")):
        raise ModelError(
            f"'{reference[:200]}' is no folder" + (", and no Hub id either" if "/" in reference else ""),
            expected="a model folder, or a Hub id of the form owner/name",
            cure=f"check the path (relative paths start at {root})",
            place="model",
        )
    return _download(name, revision)


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(
            snapshot_download(name, revision=revision, allow_patterns=_HUB_FILES, ignore_patterns=_HUB_LEFT_OUT)
        )
    except GatedRepoError:
        found, cure = "the model's licence has not been accepted", "accept it on the model's page and log in"
    except RepositoryNotFoundError:
        found, cure = "the Hub has no such model, or it is private", "check the name, and log in if it is private"
    except (LocalEntryNotFoundError, ConnectionError, TimeoutError):
        found = "it is neither on disk nor can the Hub be reached"
        cure = "connect once to download it, or give the path of a folder that holds it"
    except (HfHubHTTPError, OSError, ValueError) as error:
        found, cure = f"the download failed: {type(error).__name__}", "check the name and revision, then try again"
    raise ModelError(found, expected="a model on the Hub", cure=cure, place=name + (f"@{revision}" if revision else ""))


def load_model(folder: Path, *, dtype: str, attention: str = "sdpa", device: str = "cpu") -> Any:
    """Return a causal LM from a folder in Hugging Face format, in evaluation mode.

    Args:
        folder: See `validation.check_model_folder`; its tokenizer is not needed.
        dtype: "float32", "bfloat16" or "float16", whatever the files hold.
        attention: A transformers attention implementation; "sdpa" means eager where an architecture lacks it.
        device: Where to put it.

    Raises:
        ModelError: The folder does not pass its checks, or the attention is not available.
    """
    return build_checked_model(check_model_folder(folder, with_tokenizer=False), dtype, attention, device)


def load_tokenizer(folder: Path, *, num_embeddings: int | None = None) -> Any:
    """Return the fast tokenizer of a folder; pad is left as it is, also where it equals eos or is missing.

    It is the one that transformers gives anyone who has the folder. For some architectures that is not
    tokenizer.json as it stands but a class of the architecture's own around its vocabulary; one that
    tears ordinary words differently, or adds tokens that the embedding lacks, is refused.

    Args:
        folder: Holds tokenizer.json and what belongs to it.
        num_embeddings: Rows of the model's embedding, if a model is to go with it.

    Raises:
        ModelError: As for `tokenizer_files.check_tokenizer_files`, or transformers cannot read it.
    """
    check_links(folder)
    with ThreadPoolExecutor(1) as executor:  # the trial waits for a process of its own: time to import in
        trial = executor.submit(check_tokenizer_files, folder, num_embeddings=num_embeddings)
        _import_architecture(folder)
        trial.result()
    from transformers import AutoTokenizer

    with quiet_transformers():
        tokenizer = _guard(
            lambda: AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False),
            folder,
            "a tokenizer that transformers can read",
        )
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"a slow tokenizer ({type(tokenizer).__name__})",
            expected="a fast tokenizer: rendering needs the characters of every token",
            cure="convert it once with AutoTokenizer.from_pretrained(folder).save_pretrained(folder)",
            place=str(folder),
        )
    _check_faithful(tokenizer, folder, num_embeddings)
    return tokenizer


def _import_architecture(folder: Path) -> None:
    """Import what transformers reads a tokenizer with; a configuration that is bad is refused by who reads it."""
    path = folder / CONFIG_FILE
    with suppress(ModelError):
        find_configuration_class(read_json_object(path).get("model_type") if path.exists() else None)


def _check_faithful(tokenizer: Any, folder: Path, num_embeddings: int | None) -> None:
    """Compare what transformers made of a tokenizer with its file (which has come through its trial)."""
    from tokenizers import Tokenizer

    plain = Tokenizer.from_file(str(folder / TOKENIZER_FILE)).encode(_ORDINARY_TEXT, add_special_tokens=False).ids
    largest = max(tokenizer.get_vocab().values())
    if num_embeddings is not None and largest >= num_embeddings:
        found = f"it adds token id {largest:,} to an embedding of {num_embeddings:,} rows"
    elif tokenizer.backend_tokenizer.encode(_ORDINARY_TEXT, add_special_tokens=False).ids != plain:
        found = "it gives other ids for ordinary words"
    else:
        return
    raise ModelError(
        f"transformers reads the tokenizer as {type(tokenizer).__name__}, and {found}",
        expected=f"the tokens of {TOKENIZER_FILE}, for whoever loads the model with transformers",
        cure="give the tokenizer the special tokens and rules of this architecture's own, or use an architecture "
        "(model_type) that has no tokenizer class of its own",
        place=str(folder / TOKENIZER_FILE),
    )


def load_policy(folder: Path, *, dtype: str, attention: str = "sdpa", device: str = "cpu") -> LoadedPolicy:
    """Return the policy that a folder holds: an artifact of this project or a model from elsewhere.

    An artifact's files are all hashed again first; its adapters come up active, in order and frozen
    (`adapters.prepare_policy` makes one trainable).

    Args:
        folder: An artifact, or a folder in Hugging Face format.
        dtype: See `load_model`; adapters are float32.
        attention: See `load_model`.
        device: Where to put it.

    Raises:
        ModelError: The folder does not pass its checks, or an adapter belongs to another base.
    """
    check_links(folder)
    manifest = verify_artifact(folder) if (folder / ARTIFACT_MANIFEST).exists() else None
    if manifest is not None and manifest.kind != "policy":
        raise ModelError(
            f"an artifact of the kind '{manifest.kind}'",
            expected="a policy",
            cure="name the policy that it was made from; a reward model is used by scorers (type: learned)",
            place=str(folder),
        )
    has_adapters = manifest is not None and bool(manifest.adapters)
    base_folder = folder / BASE_FOLDER if has_adapters else folder
    checked = check_model_folder(base_folder, with_tokenizer=not has_adapters)
    base_hash = hash_weights(base_folder)
    if manifest is not None and base_hash != manifest.base_hash:
        raise ModelError(
            f"the base has hash {base_hash}",
            expected=f"{manifest.base_hash}, for which the artifact was made",
            cure="take the artifact from where it was made, or run the stage again",
            place=str(base_folder),
        )
    model = build_checked_model(checked, dtype, attention, "cpu")
    tokenizer = load_tokenizer(folder, num_embeddings=model.get_input_embeddings().weight.shape[0])
    if has_adapters and manifest is not None:
        for name in manifest.adapters:
            model = load_adapter(model, folder / ADAPTERS_FOLDER / name, name)
    model = model.to(device)
    generation_config = _read_generation_config(folder if has_adapters else base_folder)
    if generation_config is not None:
        (model.get_base_model() if has_adapters else model).generation_config = generation_config
    return LoadedPolicy(
        model=model,
        tokenizer=tokenizer,
        chat_template=read_chat_template(tokenizer, folder),
        tokenizer_eos_ids=_list_ids(tokenizer.eos_token_id),
        generation_eos_ids=_list_ids(getattr(generation_config or checked.config, "eos_token_id", None)),
        hash=manifest.hash if manifest is not None else base_hash,
        base_hash=base_hash,
        base_folder=base_folder,
        adapters=tuple(manifest.adapters) if manifest is not None else (),
        folder=folder,
        manifest=manifest,
    )


def read_chat_template(tokenizer: Any, folder: Path) -> str | None:
    """Return a tokenizer's own chat template: the one, or of several the one named `default`.

    Raises:
        ModelError: There are several and none is the default.
    """
    template = tokenizer.chat_template
    if isinstance(template, dict):
        if "default" not in template:
            raise ModelError(
                f"several chat templates ({', '.join(sorted(template))})",
                expected="one, or one named 'default'",
                cure="name a template in the recipe (chat: {template: ...})",
                place=str(folder),
            )
        return str(template["default"])
    return template if template is None else str(template)


def build_checked_model(checked: CheckedModel, dtype: str, attention: str, device: str) -> Any:
    """Return the model of a folder that passed its checks, in evaluation mode; arguments and errors as `load_model`."""
    if dtype not in DTYPES:
        raise ModelError(f"dtype '{dtype}'", expected=", ".join(DTYPES), cure="choose one of these", place="dtype")

    if attention == "sdpa" and not checked.model_class._supports_sdpa:
        attention = "eager"  # Gemma 2 caps its attention scores, which the fused kernel cannot

    def build() -> tuple[Any, dict[str, Any]]:
        return checked.model_class.from_pretrained(
            None,
            config=copy.deepcopy(checked.config),
            state_dict=load_tensors(checked.entries, DTYPES[dtype]),
            dtype=DTYPES[dtype],
            attn_implementation=attention,
            output_loading_info=True,
        )

    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        model, report = _guard(build, checked.folder, f"a model that loads with attention '{attention}'")
    wrong = [
        f"{kind}: {key}"
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")
        for key in sorted(map(str, report.get(kind) or ()))
    ]
    if wrong:
        raise ModelError(
            f"transformers could not place {len(wrong)} tensors ({wrong[0]})",
            expected=f"the tensors of {type(model).__name__}, each once",
            cure="the checkpoint is of another architecture or version: download it again",
            place=str(checked.folder),
        )
    generation_config = _read_generation_config(checked.folder)
    if generation_config is not None:
        model.generation_config = generation_config
    return model.eval().to(device)


def read_generation_eos_ids(folder: Path) -> tuple[int, ...]:
    """Return the ids that a model's own configuration ends a generation with, without loading the model."""
    generation_config = _read_generation_config(folder)
    if generation_config is not None:
        return _list_ids(generation_config.eos_token_id)
    base = folder / BASE_FOLDER if (folder / BASE_FOLDER).is_dir() else folder
    return _list_ids(read_config(base).get("eos_token_id"))


def read_context_tokens(folder: Path) -> int | None:
    """Return the longest row that a model takes, by its configuration; None if it states no limit."""
    base = folder / BASE_FOLDER if (folder / BASE_FOLDER).is_dir() else folder
    values = read_config(base)
    found = values.get("max_position_embeddings") or (values.get("text_config") or {}).get("max_position_embeddings")
    return int(found) if found else None


def _read_generation_config(folder: Path) -> Any | None:
    from transformers import GenerationConfig

    path = folder / GENERATION_FILE
    if not path.exists():
        return None
    values = read_json_object(path)
    with quiet_transformers():
        return _guard(lambda: GenerationConfig.from_dict(values), path, "a generation configuration")


def _list_ids(value: Any) -> tuple[int, ...]:
    values = value if isinstance(value, list | tuple) else [value]
    return tuple(sorted({int(item) for item in values if item is not None}))


def _guard(action: Callable[[], _Result], place: Path, expected: str) -> _Result:
    """Do something to files of unknown origin in a library; whatever it raises names the folder."""
    try:
        return action()
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # noqa: BLE001  # untrusted files: a native library's panic is a BaseException
        raise ModelError(
            f"{type(error).__name__}: {str(error)[:300]}",
            expected=expected,
            cure="restore the files from where the model came from",
            place=str(place),
        ) from None
