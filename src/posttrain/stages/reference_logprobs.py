"""The log-probs of the policy that a stage starts from: computed once, before its weights move, and kept on disk.

So no second model is in memory while the stage trains. What is kept is named by the hash of all that decides it: the
policy, the rows' tokens, which of them are asked for, precision, layout and token budget, since in bf16 the last bits
depend on what is computed together.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from posttrain.core.durable import write_bytes
from posttrain.core.errors import TrainingError
from posttrain.core.hashing import hash_bytes, hash_json
from posttrain.core.protocols import Progress
from posttrain.stages.preference_batches import (
    PairBatches,
    Place,
    References,
    compute_token_logprobs,
    sum_completions,
)
from posttrain.training.distributed import release_gathered
from posttrain.training.policy import ScoredPolicy

REFERENCE_VERSION = 1
"""Part of every name: raised whenever the same rows and policy would give other numbers."""
_HASH_BYTES = 32


@dataclass(frozen=True, slots=True)
class ReferenceCache:
    """Where log-probs are kept, and what names the policy whose they are.

    Made by the wiring. `identity` holds the policy's name by content, how its adapters are taken, and its precision.
    """

    folder: Path
    identity: Mapping[str, object]


def load_references(
    policy: ScoredPolicy,
    batches: PairBatches,
    places: Sequence[Place],
    cache: ReferenceCache,
    *,
    device: str,
    progress: Progress,
) -> References:
    """Return the log-probs of the completions of some rows, computed now or read from the cache.

    Args:
        policy: As the stage starts from it; dropout is off while it is read.
        batches: Lays rows out.
        places: The rows that are asked for; every rank asks for the same.
        cache: Where they are kept.
        device: Where the policy computes.
        progress: Shows how far it has come.

    Raises:
        TrainingError: A log-prob is not finite; the row is named.
        StorageError: The cache cannot be written.
    """
    ranks, wanted = batches.ranks, sorted(set(places))
    path = cache.folder / f"{_name(batches, wanted, cache)}.npy"
    known = ranks.broadcast_object(_read(path, len(wanted)) if ranks.is_writer else None)
    if known is None:
        known = _compute(policy, batches, wanted, device, progress)
        _check_finite(batches, wanted, known)
        ranks.first(lambda: _write(path, known) if ranks.is_writer else None)
    found = [np.full((len(rows), rows.width), np.nan) for rows in batches.sources]
    for (source, row), values in zip(wanted, known, strict=True):
        found[source][row] = values
    return found


def _name(batches: PairBatches, wanted: Sequence[Place], cache: ReferenceCache) -> str:
    return hash_json(
        {
            **cache.identity,
            "rows": [rows.content_hash for rows in batches.sources],
            "wanted": hash_bytes(np.asarray(wanted, np.int64).tobytes()),
            "layout": [batches.layout, batches.is_shared, batches.micro_batch_tokens],
            "version": REFERENCE_VERSION,
        }
    )


def _compute(
    policy: ScoredPolicy, batches: PairBatches, wanted: Sequence[Place], device: str, progress: Progress
) -> npt.NDArray[np.float64]:
    """Return the sums over completions, [wanted rows, K], the same on every rank."""
    own: list[tuple[Place, list[float]]] = []
    if batches.ranks.is_writer:
        progress.start("reference log-probs", len(wanted), unit="row")
    was_training = policy.training
    policy.eval()
    try:
        for places, micro_batch in batches.build_micro_batches(wanted):
            part = micro_batch.to(device)
            logprobs_N = compute_token_logprobs(policy, part)
            if places:
                sums = iter(sum_completions(logprobs_N, part.constants).tolist())
                own += [(place, [next(sums) for _ in range(batches.sources[place[0]].width)]) for place in places]
            if batches.ranks.is_writer:
                progress.advance(len(places) * batches.ranks.count, tokens=len(part.ids_T))
    finally:
        policy.train(was_training)
        if batches.ranks.is_writer:
            progress.finish()
    release_gathered(policy)
    of_place = dict(one for share in batches.ranks.gather(lambda: own) for one in share)
    return np.array([of_place[place] for place in wanted], np.float64)


def _check_finite(batches: PairBatches, wanted: Sequence[Place], known: npt.NDArray[np.float64]) -> None:
    bad = np.flatnonzero(~np.isfinite(known).all(axis=1))
    if len(bad):
        names = [batches.sources[wanted[index][0]].row_id(wanted[index][1]) for index in bad[:8]]
        raise TrainingError(
            f"the starting policy gives {len(bad):,} rows a log-prob that is not finite: {', '.join(names)}",
            expected="finite log-probs of every completion",
            cure="use dtype: float32, or look at the rows with 'posttrain data show'",
            place="reference",
        )


def _write(path: Path, values: npt.NDArray[np.float64]) -> None:
    content = io.BytesIO()
    np.save(content, values, allow_pickle=False)
    body = content.getvalue()
    write_bytes(path, _sign(path, body) + body)


def _sign(path: Path, body: bytes) -> bytes:
    """Return what shows that a file is whole, and that it lies under its own name."""
    return hash_bytes(path.name.encode() + body).encode()


def _read(path: Path, count: int) -> npt.NDArray[np.float64] | None:
    """Return what was kept; None where nothing was, or where it is not, byte for byte, what was written there."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if _sign(path, content[_HASH_BYTES:]) != content[:_HASH_BYTES]:
        return None
    values: npt.NDArray[np.float64] = np.load(io.BytesIO(content[_HASH_BYTES:]), allow_pickle=False)
    return values if len(values) == count else None
