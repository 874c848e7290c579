"""What is known of every sequence that is being drawn, row by row, in tensors on the model's device.

The sequences that run are always the first rows: when one ends, the last takes its place. Shape letters: R
rows of the buffers, B running sequences, T most new tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from posttrain.core.sampling import SamplingSettings
from posttrain.kernels.drawing import Drawn


@dataclass(eq=False, slots=True)
class Group:
    """One problem: its prompt, and where its keys and values lie once a prefill has run.

    Made by `samplers/pool.py`. `slot` is a row of the shared prompts, None before the prefill and where the
    prompt lies in the sequence's own row. `unfinished` counts sequences that still need the prompt.
    """

    index: int
    prompt: list[int]
    seeds: list[int]
    slot: int | None = None
    next_sample: int = 0
    unfinished: int = 0
    last_hidden: torch.Tensor | None = None


@dataclass(eq=False, slots=True)
class Running:
    """One sequence that is being drawn: sample `sample_index` of a group, with its own seed."""

    group: Group
    sample_index: int
    seed: int
    member: int = 0
    text_end: int | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """What a sequence drew, cut to its length; log-probs fp32 [T], most probable tokens [T, K] if asked for."""

    ids: torch.Tensor
    logprobs: torch.Tensor
    drawing_logprobs: torch.Tensor
    top_ids: torch.Tensor | None
    top_logprobs: torch.Tensor | None


@dataclass(slots=True)
class RowState:
    """Tensors of R rows and the sequences in the first of them."""

    ids: torch.Tensor
    lengths: torch.Tensor
    positions: torch.Tensor
    counts: torch.Tensor
    seeds: torch.Tensor
    out_ids: torch.Tensor
    out_logprobs: torch.Tensor
    out_drawing_logprobs: torch.Tensor
    out_top_ids: torch.Tensor | None
    out_top_logprobs: torch.Tensor | None
    seen_RV: torch.Tensor | None
    running: list[Running] = field(default_factory=list)

    @classmethod
    def build(cls, num_rows: int, settings: SamplingSettings, vocabulary: int, device: torch.device) -> RowState:
        """Return empty rows."""
        T, K = settings.max_new_tokens, min(settings.top_logprobs, vocabulary)

        def integers(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, dtype=torch.int64, device=device)

        def floats(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, dtype=torch.float32, device=device)

        is_penalised = settings.repetition_penalty not in (None, 1.0)
        return cls(
            ids=integers(num_rows),
            lengths=integers(num_rows),
            positions=integers(num_rows),
            counts=integers(num_rows),
            seeds=integers(num_rows),
            out_ids=integers(num_rows, T),
            out_logprobs=floats(num_rows, T),
            out_drawing_logprobs=floats(num_rows, T),
            out_top_ids=integers(num_rows, T, K) if K else None,
            out_top_logprobs=floats(num_rows, T, K) if K else None,
            seen_RV=torch.zeros(num_rows, vocabulary, dtype=torch.bool, device=device) if is_penalised else None,
        )

    @property
    def active(self) -> int:
        """How many sequences run."""
        return len(self.running)

    def start(self, sequence: Running, own_tokens: int) -> int:
        """Put a sequence behind the running ones and return its row; its first token is yet to be drawn."""
        row = self.active
        self.running.append(sequence)
        self.lengths[row] = own_tokens
        self.positions[row] = len(sequence.group.prompt) - 1
        self.counts[row] = 0
        self.seeds[row] = sequence.seed
        if self.seen_RV is not None:
            self.seen_RV[row] = False
            self.seen_RV[row, torch.tensor(sequence.group.prompt, device=self.ids.device)] = True
        return row

    def write(self, rows: slice, drawn: Drawn) -> None:
        """Write one drawn token of each of some rows."""
        counts = self.counts[rows]
        index = torch.arange(rows.start, rows.stop, device=counts.device)
        self.ids[rows] = drawn.ids_B
        self.out_ids[index, counts] = drawn.ids_B
        self.out_logprobs[index, counts] = drawn.logprobs_B
        self.out_drawing_logprobs[index, counts] = drawn.drawing_logprobs_B
        if self.out_top_ids is not None and self.out_top_logprobs is not None:
            assert drawn.top_ids_BK is not None and drawn.top_logprobs_BK is not None
            self.out_top_ids[index, counts] = drawn.top_ids_BK
            self.out_top_logprobs[index, counts] = drawn.top_logprobs_BK
        if self.seen_RV is not None:
            self.seen_RV[index, drawn.ids_B] = True
        self.counts[rows] += 1
        self.positions[rows] += 1

    def read(self, row: int) -> Written:
        """Return what a row's sequence drew so far, as copies on the CPU."""
        count = int(self.counts[row])

        def cut(tensor: torch.Tensor) -> torch.Tensor:
            return tensor[row, :count].cpu().clone()

        return Written(
            cut(self.out_ids),
            cut(self.out_logprobs),
            cut(self.out_drawing_logprobs),
            cut(self.out_top_ids) if self.out_top_ids is not None else None,
            cut(self.out_top_logprobs) if self.out_top_logprobs is not None else None,
        )

    def move(self, source: int, target: int) -> None:
        """Let a row's place be taken by another."""
        for tensor in self._tensors():
            tensor[target] = tensor[source]
        self.running[target] = self.running[source]

    def _tensors(self) -> Sequence[torch.Tensor]:
        tensors = (
            self.ids, self.lengths, self.positions, self.counts, self.seeds, self.out_ids, self.out_logprobs,
            self.out_drawing_logprobs, self.out_top_ids, self.out_top_logprobs, self.seen_RV,
        )  # fmt: skip
        return [tensor for tensor in tensors if tensor is not None]
