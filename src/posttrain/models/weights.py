"""Safetensors files as untrusted input: headers read and checked by hand, values streamed.

A header decides how many bytes a loader allocates and where it reads them, so it is checked against the
file before any tensor is made. Only floating-point tensors pass. A model's weights are named by
`hash_weights`: names, dtypes, shapes and bytes, however they are spread over files.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.core.errors import ModelError
from posttrain.core.hashing import hash_json
from posttrain.core.known_files import find_once

if TYPE_CHECKING:
    import torch

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".distcp")

_FLOAT_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_MAX_NAME_CHARACTERS = 500
_MAX_JSON_BYTES = 64 << 20
_CHUNK_BYTES = 8 << 20
_CHUNK_ELEMENTS = 16 << 20
_TORN = "the file is damaged or was cut off: download or save it again"


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where one tensor lies: bytes `[begin, end)` of its file, counted from the file's start."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Return the tensors of a safetensors file, having checked its header against its size.

    Raises:
        ModelError: The header lies (length, offsets, shapes, overlaps, holes), is not JSON, or holds a
            dtype that is not floating point.
    """
    size = _check_regular(path)
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(_MAX_HEADER_BYTES, size - 8):
            raise _torn(path, f"the header claims {length:,} bytes in a file of {size:,}")
        values = parse_json(file.read(length), place=str(path), cure=_TORN)
    values.pop("__metadata__", None)
    if any(len(name) > _MAX_NAME_CHARACTERS for name in values):
        raise _torn(path, f"a tensor name of more than {_MAX_NAME_CHARACTERS} characters")
    start = 8 + length
    entries = {name: _read_entry(path, name, value, start) for name, value in values.items()}
    position = start
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != position:
            raise _torn(path, f"tensor '{name}' starts at byte {entry.begin:,} where {position:,} was due")
        position = entry.end
    if position != size:
        raise _torn(path, f"the tensors end at byte {position:,} of a file of {size:,}")
    return entries


def read_weight_entries(folder: Path) -> dict[str, TensorEntry]:
    """Return every tensor of a model folder, from its one file or from the shards of its index.

    Raises:
        ModelError: No safetensors weights, an index that points elsewhere or disagrees with its shards.
    """
    single, index = folder / SINGLE_FILE, folder / INDEX_FILE
    if single.exists() or single.is_symlink():
        return read_header(single)
    if index.exists() or index.is_symlink():
        return _read_shards(folder, index)
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLE_SUFFIXES)
    if pickles:
        raise ModelError(
            f"the weights are pickle files ({', '.join(pickles[:3])})",
            expected=f"{SINGLE_FILE} or {INDEX_FILE}: a pickle runs code when it is read, so none is ever opened",
            cure="convert the checkpoint to safetensors where you trust it, or take a revision that has them",
            place=str(folder),
        )
    raise ModelError(
        "no weights",
        expected=f"{SINGLE_FILE}, or {INDEX_FILE} and its shards",
        cure="point to a Hugging Face model folder that holds safetensors",
        place=str(folder),
    )


def find_stored_dtype(folder: Path) -> str:
    """Return the dtype that most of a model folder's values are stored in: float32, bfloat16 or float16.

    Raises:
        ModelError: As for `read_weight_entries`.
    """
    names = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float32"}
    sizes: dict[str, int] = {}
    for entry in read_weight_entries(folder).values():
        sizes[names[entry.dtype]] = sizes.get(names[entry.dtype], 0) + entry.end - entry.begin
    return max(sorted(sizes), key=sizes.__getitem__)


def _read_shards(folder: Path, index: Path) -> dict[str, TensorEntry]:
    _check_regular(index)
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise _torn(index, "no weight_map")
    entries: dict[str, TensorEntry] = {}
    for shard in sorted({str(value) for value in weight_map.values()}):
        if os.path.basename(shard) != shard or "\\" in shard or not shard.endswith(".safetensors"):
            raise ModelError(
                f"the index points to '{shard[:200]}'",
                expected="names of safetensors files in the index's own folder",
                cure="do not use this model: an index has no reason to point outside its folder",
                place=str(index),
            )
        for name, entry in read_header(folder / shard).items():
            if weight_map.get(name) != shard:
                raise _torn(index, f"tensor '{name}' lies in {shard}, the index says {weight_map.get(name)}")
            entries[name] = entry
    absent = sorted(set(weight_map) - set(entries))
    if absent:
        raise _torn(index, f"tensor '{absent[0]}' is in no shard")
    return entries


def _read_entry(path: Path, name: str, value: Any, start: int) -> TensorEntry:
    place = f"{path}: {name}"
    dtype = value.get("dtype") if isinstance(value, dict) else None
    shape = value.get("shape") if isinstance(value, dict) else None
    offsets = value.get("data_offsets") if isinstance(value, dict) else None
    if not (isinstance(dtype, str) and _is_counts(shape) and _is_counts(offsets) and len(offsets or []) == 2):
        raise ModelError(
            "a header entry that is not a tensor", expected="dtype, shape, offsets", cure=_TORN, place=place
        )
    if dtype not in _FLOAT_BYTES:
        raise ModelError(
            f"dtype {dtype[:20]}",
            expected="floating-point weights: " + ", ".join(_FLOAT_BYTES),
            cure="use the checkpoint that is not quantised; weights of whole numbers cannot be trained",
            place=place,
        )
    begin, end = offsets  # type: ignore[misc]  # checked above
    if end - begin != math.prod(shape) * _FLOAT_BYTES[dtype]:  # type: ignore[arg-type]  # checked above
        raise ModelError(
            f"{dtype} of shape {shape} in {end - begin:,} bytes",
            expected=f"{math.prod(shape) * _FLOAT_BYTES[dtype]:,} bytes",  # type: ignore[arg-type]  # checked above
            cure=_TORN,
            place=place,
        )
    return TensorEntry(path, dtype, tuple(shape), start + begin, start + end)  # type: ignore[arg-type]  # checked above


def _is_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def hash_weights(folder: Path) -> str:
    """Return the content hash of a folder's weights: names, dtypes, shapes and bytes of all tensors.

    Files that nobody touched since they were hashed in this process are not read again.
    """
    entries = sorted(read_weight_entries(folder).items())
    return find_once(
        ("weights", *entries),
        sorted({entry.path for _, entry in entries}),
        lambda: hash_json([[name, e.dtype, list(e.shape), hash_entry(e)] for name, e in entries]),
    )


def hash_entry(entry: TensorEntry) -> str:
    """Return the SHA-256 of one tensor's bytes."""
    digest = hashlib.sha256()
    with entry.path.open("rb") as file:
        file.seek(entry.begin)
        left = entry.end - entry.begin
        while left > 0:
            chunk = file.read(min(left, _CHUNK_BYTES))
            if not chunk:
                raise _torn(entry.path, "the file became shorter while it was read")
            digest.update(chunk)
            left -= len(chunk)
    return digest.hexdigest()


def iterate_tensors(entries: Mapping[str, TensorEntry]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (name, tensor) file by file; tensors are views of the mapped file, to be read and not kept."""
    from safetensors import safe_open

    for path in sorted({entry.path for entry in entries.values()}):
        with safe_open(path, framework="pt") as file:
            for name in sorted(name for name, entry in entries.items() if entry.path == path):
                yield name, file.get_tensor(name)


def check_finite(entries: Mapping[str, TensorEntry]) -> None:
    """Refuse weights that hold NaN or infinity.

    Raises:
        ModelError: Names the tensor and how many of its values are not finite.
    """
    for name, tensor in iterate_tensors(entries):
        flat = tensor.reshape(-1)
        num_bad = sum(int((~part.isfinite()).sum()) for part in flat.split(_CHUNK_ELEMENTS))
        if num_bad:
            raise ModelError(
                f"{num_bad:,} of {flat.numel():,} values are NaN or infinite",
                expected="finite weights",
                cure="the model was damaged in training or in conversion: use an earlier checkpoint",
                place=f"{entries[name].path}: {name}",
            )


def load_tensors(entries: Mapping[str, TensorEntry], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return tensors that own their memory where they already have `dtype`; others still map the file.

    A loader that converts copies the others anyway; a tensor that aliased the file would change with it.
    """
    return {name: tensor.clone() if tensor.dtype == dtype else tensor for name, tensor in iterate_tensors(entries)}


def save_tensors(tensors: Mapping[str, torch.Tensor], path: Path, dtype: torch.dtype) -> None:
    """Write tensors to one safetensors file; equal values give equal bytes.

    Raises:
        ModelError: A value is not finite in `dtype`; nothing is written.
    """
    from safetensors.torch import save_file

    stored = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in sorted(tensors.items())}
    for name, tensor in stored.items():
        if not bool(tensor.isfinite().all()):
            raise ModelError(
                f"values that are NaN or infinite in {str(dtype).removeprefix('torch.')}",
                expected="finite weights",
                cure="go back to the last good checkpoint",
                place=name,
            )
    save_file(stored, path, metadata={"format": "pt"})
    path.chmod(0o644)


def read_json_object(path: Path, *, max_bytes: int = _MAX_JSON_BYTES) -> dict[str, Any]:
    """Return the object of a JSON file that was written elsewhere.

    Raises:
        ModelError: Too large, not UTF-8, not JSON, duplicate keys, NaN, too deep, or not an object.
    """
    size = _check_regular(path)
    cure = "restore the file from where the model came from"
    if size > max_bytes:
        raise ModelError(f"{size:,} bytes", expected=f"at most {max_bytes:,}", cure=cure, place=str(path))
    return parse_json(path.read_bytes(), place=str(path), cure=cure)


def parse_json(content: bytes, *, place: str, cure: str) -> dict[str, Any]:
    """Return the object that JSON bytes of unknown origin hold (see `read_json_object`)."""
    try:
        value = json.loads(
            content.decode("utf-8"), object_pairs_hook=_refuse_duplicates, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"not readable JSON: {str(error)[:200]}", expected="one JSON object", cure=cure, place=place
        ) from None
    if not isinstance(value, dict):
        raise ModelError(f"JSON of type {type(value).__name__}", expected="one JSON object", cure=cure, place=place)
    return value


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key appears twice")
    return values


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _check_regular(path: Path) -> int:
    """Return a file's size, having refused what is missing or is no plain file (opening a pipe would hang)."""
    try:
        status = path.stat()
    except OSError as error:
        raise ModelError(
            f"cannot be read: {error.strerror}", expected="a file", cure="restore the file or its link", place=str(path)
        ) from None
    if not stat.S_ISREG(status.st_mode):
        raise ModelError("not a plain file", expected="a file", cure="remove it and restore the file", place=str(path))
    return status.st_size


def _torn(path: Path, found: str) -> ModelError:
    return ModelError(found, expected="a whole safetensors file", cure=_TORN, place=str(path))
