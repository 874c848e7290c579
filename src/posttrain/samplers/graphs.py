"""One decode pass, run eagerly or replayed from a recording.

On a GPU a decode pass of a small model is hundreds of kernels that take less time than launching them does. It
is recorded once for each number of rows and of tokens to look at (CUDA graphs), and replayed with new numbers
in the same places. What is replayed must not move: buffers are fixed (`KvCache.is_fixed`), weights are copied
in place (`models.shadow.Shadow.refresh`), inputs are copied into the recording's own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from posttrain.kernels.cached_attention import Decode, Prefill
from posttrain.samplers.kv_cache import KvCache, SharedRows


@dataclass(frozen=True, slots=True)
class DecodeInputs:
    """What a decode pass needs of B rows: the token to run, its position, the tokens that are kept already.

    Made by `samplers/pool.py`. `longest` is the largest of `lengths_B`; `shared` says where prompts are.
    """

    ids_B: torch.Tensor
    positions_B: torch.Tensor
    lengths_B: torch.Tensor
    longest: int
    shared: SharedRows | None

    def tensors(self) -> list[torch.Tensor]:
        """Return the tensors, in one order."""
        own = [self.ids_B, self.positions_B, self.lengths_B]
        shared = self.shared
        return own if shared is None else [*own, *shared.tensors()]

    def clone(self) -> DecodeInputs:
        """Return the same with tensors of its own."""
        shared = self.shared
        if shared is not None:
            shared = SharedRows(shared.num_groups, shared.longest, *(x.clone() for x in shared.tensors()))
        return replace(
            self,
            ids_B=self.ids_B.clone(),
            positions_B=self.positions_B.clone(),
            lengths_B=self.lengths_B.clone(),
            shared=shared,
        )


DecodePass = Callable[[torch.Tensor, torch.Tensor, Decode], torch.Tensor]
"""Maps ids [B], positions [B] and a pass to the hidden states [B, H] of one new token of each row."""


class Recording(Protocol):
    """A pass that can be run again on what its inputs hold by then."""

    def replay(self) -> None:
        """Run the pass again, into the same output."""


def run_backbone(
    backbone: Callable[..., Any], ids_T: torch.Tensor, positions_T: torch.Tensor, step: Prefill | Decode
) -> torch.Tensor:
    """Return the last hidden states [T, H] of a pass."""
    output = backbone(input_ids=ids_T[None], position_ids=positions_T[None], use_cache=False, cached_step=step)
    hidden: torch.Tensor = output.last_hidden_state[0]
    return hidden


class EagerDecode:
    """Runs each decode pass as it comes."""

    def __init__(self, decode: DecodePass, cache: KvCache) -> None:
        self._decode = decode
        self._cache = cache

    def __call__(self, inputs: DecodeInputs) -> torch.Tensor:
        """Return the hidden states [B, H] of the rows' new tokens, whose keys and values are kept."""
        step = self._cache.build_decode(inputs.lengths_B, inputs.longest, inputs.shared)
        return self._decode(inputs.ids_B, inputs.positions_B, step)


class RecordedDecode:
    """Records each decode pass that is new in shape, and replays it from then on.

    Args:
        decode: Runs a pass.
        cache: Fixed buffers.
        record: Runs a function once or more and returns its output with a recording of it.
    """

    def __init__(
        self,
        decode: DecodePass,
        cache: KvCache,
        record: Callable[[Callable[[], torch.Tensor]], tuple[torch.Tensor, Recording]],
    ) -> None:
        self._eager = EagerDecode(decode, cache)
        self._cache = cache
        self._record = record
        self._version = -1
        self._known: dict[tuple[int, int, int], tuple[DecodeInputs, torch.Tensor, Recording]] = {}

    def __call__(self, inputs: DecodeInputs) -> torch.Tensor:
        """Return the hidden states [B, H] of the rows' new tokens; the next call overwrites them."""
        if self._version != self._cache.version:  # buffers have moved
            self._known.clear()
            self._version = self._cache.version
        # How many groups there are is fixed with the buffers.
        key = (len(inputs.ids_B), *self._cache.count_looked_at(inputs.longest, inputs.shared))
        if key not in self._known:
            own = inputs.clone()
            # Running a pass twice on the same inputs keeps the same keys and values in the same places.
            output, recording = self._record(lambda: self._eager(own))
            self._known[key] = own, output, recording
        own, output, recording = self._known[key]
        for target, source in zip(own.tensors(), inputs.tensors(), strict=True):
            target.copy_(source)
        recording.replay()
        return output


@functools.cache
def _pool() -> Any:
    """Return the memory that all recordings share: one pass at a time is replayed, so they may use the same places."""
    return torch.cuda.graph_pool_handle()


def record_cuda(run: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, Recording]:
    """Return a pass's output and a CUDA graph of it, after warm-up runs on a stream of its own."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=_pool()):
        output = run()
    return output, graph
