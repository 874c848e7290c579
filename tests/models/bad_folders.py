"""Ways to spoil a model folder, each with the place and the finding that its error must name."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from posttrain.models.adapter_files import save_adapter
from posttrain.models.adapters import add_adapter
from posttrain.models.lora_settings import LoraSettings
from posttrain.models.weights import read_header
from tests.models.tiny_models import edit_config, edit_header, edit_weights, make_tiny, make_tokenizer, save_tiny


class _Trap:
    """A pickle that leaves a mark when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


def _shard(folder: Path, file_name: str) -> None:
    """Turn model.safetensors into a sharded checkpoint whose one shard has the given name."""
    names = list(read_header(folder / "model.safetensors"))
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, file_name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")


def _edit_json(path: Path, **changes: Any) -> None:
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(values))


def _link_out(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).symlink_to(folder.parent / "outside" / name)


def _pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(_Trap(folder / "ran")))


def _distributed_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / ".metadata").write_bytes(pickle.dumps(_Trap(folder / "ran")))
    (folder / "__0_0.distcp").write_bytes(pickle.dumps(_Trap(folder / "ran")))


def _cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _claim_header(folder: Path, length: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])


def _claim_dtype(folder: Path, dtype: str) -> None:
    edit_header(folder / "model.safetensors", lambda header: header["lm_head.weight"].update(dtype=dtype))


def _swap_halves(folder: Path) -> None:
    shutil.rmtree(folder)
    save_tiny(folder, dtype=torch.bfloat16)

    def rename(header: dict[str, Any]) -> None:
        for name, entry in header.items():
            if name != "__metadata__":
                entry["dtype"] = "F16"

    edit_header(folder / "model.safetensors", rename)


def _overlap(folder: Path) -> None:
    def change(header: dict[str, Any]) -> None:
        header["model.layers.0.self_attn.k_proj.weight"]["data_offsets"] = header[
            "model.layers.0.self_attn.v_proj.weight"
        ]["data_offsets"]

    edit_header(folder / "model.safetensors", change)


def _spoil(folder: Path, value: float) -> None:
    weight = make_tiny("llama").model.layers[1].mlp.up_proj.weight.detach().clone()
    weight[3, 5] = value
    edit_weights(folder, model__layers__1__mlp__up_proj__weight=weight)


def _remote_code(folder: Path) -> None:
    (folder / "modeling_trap.py").write_text(f"open({str(folder / 'ran')!r}, 'w').close()\n")
    edit_config(folder, auto_map={"AutoModelForCausalLM": "modeling_trap.Trap", "AutoConfig": "modeling_trap.Trap"})


def _tokenizer_code(folder: Path) -> None:
    (folder / "tokenization_trap.py").write_text(f"open({str(folder / 'ran')!r}, 'w').close()\n")
    _edit_json(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_trap.Trap", None]})


def set_pre_tokenizer(folder: Path, pattern: str) -> None:
    """Split text by a regular expression."""
    rule = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    _edit_json(folder / "tokenizer.json", pre_tokenizer=rule)


def _normalizer_bomb(folder: Path) -> None:
    """Each rule makes ten characters of one: twelve of them make a terabyte of the first letter."""
    rules = [{"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10} for _ in range(12)]
    _edit_json(folder / "tokenizer.json", normalizer={"type": "Sequence", "normalizers": rules})


def _adapter_alone(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    save_adapter(add_adapter(make_tiny("llama"), LoraSettings(rank=2), "x", 1), "00-x", folder, torch.float32, None)


def _adapter_inside(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "../outside"}))


def _empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _pipe(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")


Spoil = Callable[[Path], Any]
BAD: dict[str, tuple[Spoil, str, str]] = {
    "index points out of the folder": (
        lambda f: _shard(f, "../outside/model.safetensors"),
        "index.json",
        "the index points to '../outside/model.safetensors'",
    ),
    "index points to an absolute path": (
        lambda f: _shard(f, "/etc/passwd"),
        "index.json",
        "the index points to '/etc/passwd'",
    ),
    "index points to a shard that is not there": (
        lambda f: _shard(f, "model-2.safetensors"),
        "model-2",
        "cannot be read",
    ),
    "weights are a link out": (
        lambda f: _link_out(f, "model.safetensors"),
        "model.safetensors",
        "leads out of the folder",
    ),
    "tokenizer is a link out": (lambda f: _link_out(f, "tokenizer.json"), "tokenizer.json", "leads out of the folder"),
    "weights are a pickle": (_pickle_only, "model", "the weights are pickle files (pytorch_model.bin)"),
    "weights are a distributed pickle": (_distributed_pickle, "model", "the weights are pickle files (__0_0.distcp)"),
    "weights are a pipe": (_pipe, "model.safetensors", "not a plain file"),
    "weights are cut off": (_cut, "model.safetensors", "the tensors end at byte"),
    "weights are empty": (lambda f: (f / "model.safetensors").write_bytes(b""), "model.safetensors", "in a file of 0"),
    "header claims an exabyte": (lambda f: _claim_header(f, 1 << 60), "model.safetensors", "the header claims"),
    "header claims too little": (lambda f: _claim_header(f, 16), "model.safetensors", "not readable JSON"),
    "header says whole numbers": (lambda f: _claim_dtype(f, "I32"), "lm_head.weight", "dtype I32"),
    "header says half precision": (lambda f: _claim_dtype(f, "BF16"), "lm_head.weight", "BF16 of shape [259, 32]"),
    "bfloat16 is called float16": (_swap_halves, "model.safetensors", "dtype F16"),
    "two tensors share bytes": (_overlap, "model.safetensors", "starts at byte"),
    "a tensor is missing": (
        lambda f: edit_weights(f, model__layers__0__mlp__gate_proj__weight=None),
        "model.layers.0.mlp.gate_proj.weight",
        "the tensor is missing",
    ),
    "the head is missing": (lambda f: edit_weights(f, lm_head__weight=None), "lm_head.weight", "the tensor is missing"),
    "a tensor is unknown": (
        lambda f: edit_weights(f, model__extra=torch.ones(3)),
        "model.extra",
        "a tensor that the architecture does not have",
    ),
    "a tensor has another shape": (
        lambda f: edit_weights(f, lm_head__weight=torch.ones(259, 33)),
        "lm_head.weight",
        "shape [259, 33]",
    ),
    "a weight is NaN": (
        lambda f: _spoil(f, float("nan")),
        "model.layers.1.mlp.up_proj.weight",
        "1 of 1,536 values are NaN or infinite",
    ),
    "a weight is infinite": (
        lambda f: _spoil(f, float("-inf")),
        "model.layers.1.mlp.up_proj.weight",
        "1 of 1,536 values are NaN or infinite",
    ),
    "head differs from the embedding it is tied to": (
        lambda f: edit_config(f, tie_word_embeddings=True),
        "lm_head",
        "it differs from",
    ),
    "vocabulary is absurd": (
        lambda f: edit_config(f, vocab_size=10**12),
        "config.json",
        "'vocab_size' is 1000000000000",
    ),
    "vocabulary is large beyond the weights": (
        lambda f: edit_config(f, vocab_size=4_000_000),
        "embed_tokens",
        "shape [259, 32]",
    ),
    "hidden size is absurd": (
        lambda f: edit_config(f, hidden_size=2**40),
        "config.json",
        "'hidden_size' is 1099511627776",
    ),
    "hidden size is text": (lambda f: edit_config(f, hidden_size="32"), "config.json", "is '32'"),
    "layers are more than tensors": (
        lambda f: edit_config(f, num_hidden_layers=900),
        "config.json",
        "'num_hidden_layers' is 900",
    ),
    "heads are zero": (
        lambda f: edit_config(f, num_attention_heads=0, head_dim=None),
        "config.json",
        "ZeroDivisionError",
    ),
    "config is missing": (lambda f: (f / "config.json").unlink(), "model", "no config.json"),
    "config is not JSON": (
        lambda f: (f / "config.json").write_text("{'model_type': 'llama'}"),
        "config.json",
        "not readable JSON",
    ),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), "config.json", "JSON of type list"),
    "config has a key twice": (
        lambda f: (f / "config.json").write_text('{"a": 1, "a": 2}'),
        "config.json",
        "a key appears twice",
    ),
    "config nests without end": (lambda f: (f / "config.json").write_text("[" * 10**6), "config.json", "recursion"),
    "architecture is unknown": (lambda f: edit_config(f, model_type="llama9"), "config.json", "model_type 'llama9'"),
    "architecture is no language model": (
        lambda f: edit_config(f, model_type="vit"),
        "config.json",
        "no causal language model",
    ),
    "config names remote code": (_remote_code, "config.json", "'auto_map'"),
    "config names a kernel to download": (
        lambda f: edit_config(f, _attn_implementation="someone/kernel"),
        "config.json",
        "someone/kernel",
    ),
    "config names another weight file": (
        lambda f: edit_config(f, transformers_weights="../outside/model.safetensors"),
        "config.json",
        "'transformers_weights'",
    ),
    "weights are quantised": (
        lambda f: edit_config(f, quantization_config={"load_in_8bit": True}),
        "config.json",
        "'quantization_config'",
    ),
    "generation config is not JSON": (
        lambda f: (f / "generation_config.json").write_text("eos: 1"),
        "generation_config.json",
        "not readable JSON",
    ),
    "tokenizer is missing": (lambda f: (f / "tokenizer.json").unlink(), "model", "no tokenizer.json"),
    "tokenizer is not JSON": (
        lambda f: (f / "tokenizer.json").write_text("\x00"),
        "tokenizer.json",
        "not readable JSON",
    ),
    "tokenizer has no vocabulary": (
        lambda f: _edit_json(f / "tokenizer.json", model={}),
        "tokenizer.json",
        "no vocabulary",
    ),
    "tokenizer names code": (_tokenizer_code, "tokenizer_config.json", "'auto_map' names code to load"),
    "tokenizer names a file outside": (
        lambda f: _edit_json(f / "tokenizer_config.json", tokenizer_file="../outside/tokenizer.json"),
        "tokenizer_config.json",
        "'tokenizer_file' names files to load",
    ),
    "tokenizer's regex is wrong": (lambda f: set_pre_tokenizer(f, "(["), "tokenizer.json", "Oniguruma"),
    "tokenizer's regex never ends": (
        lambda f: set_pre_tokenizer(f, "(a|a|aa|a?)*(a|aa)*$^"),
        "tokenizer.json",
        "retry-limit",
    ),
    "tokenizer's rules multiply": (_normalizer_bomb, "tokenizer.json", "fails a trial in a sandbox"),
    "tokenizer is larger than the embedding": (
        lambda f: make_tokenizer(num_extra=5).save_pretrained(f),
        "tokenizer.json",
        "token id 263 with an embedding of 259 rows",
    ),
    "template is broken": (
        lambda f: (f / "chat_template.jinja").write_text("{% for %}"),
        "chat_template.jinja",
        "TemplateSyntaxError",
    ),
    "template is not text": (
        lambda f: (f / "chat_template.jinja").write_bytes(b"\xff\xfe"),
        "chat_template.jinja",
        "a chat template that cannot be used: text that is not UTF-8",
    ),
    "template is a number": (
        lambda f: _edit_json(f / "tokenizer_config.json", chat_template=7),
        "tokenizer_config.json",
        "a chat template that cannot be used: a chat_template of type int",
    ),
    "folder is empty": (_empty, "model", "an empty folder"),
    "folder is missing": (shutil.rmtree, "model", "no such folder"),
    "adapter without its base": (_adapter_alone, "model", "an adapter without its base"),
    "adapter inside a model": (_adapter_inside, "model", "an adapter and a model in one folder"),
}
