"""From pairs to the micro-batches of a step: a prompt stands once before its completions; and log-probs without loss.

Rows of one completion (unpaired) lie in the same way. Shape letters: R rows of a source, K completions of a row, S
completions of a micro-batch, N scored tokens of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from posttrain.core.errors import RefusedError
from posttrain.data.packing import deal, pack, pack_padded
from posttrain.data.pairs import PairRows, RenderedPair
from posttrain.training.batches import (
    MicroBatch,
    PromptFamily,
    ScoredCompletion,
    build_empty_micro_batch,
    build_family_batch,
)
from posttrain.training.distributed import Ranks
from posttrain.training.policy import ScoredPolicy
from posttrain.training.step import StepBatch

Place = tuple[int, int]
"""A row: its source, and its number in it."""
References = Sequence[npt.NDArray[np.float64]]
"""The reference's log-probs of whole completions, nats, of each source [R, K]; NaN of rows that nobody asked for."""


@dataclass(frozen=True, slots=True)
class PairBatches:
    """Lays rows out for a policy.

    Args:
        sources: The rows.
        ranks: The processes that share a step.
        layout: How the policy takes rows: `packed` or `padded`.
        is_shared: Whether a prompt stands once before its completions (only where packed), or before each of them.
        micro_batch_tokens: Token budget of a micro-batch; a row above it runs alone.

    Raises:
        RefusedError: The policy takes one row at a time, and the branches of a pair are compared with one another.
    """

    sources: Sequence[PairRows]
    ranks: Ranks
    layout: str
    is_shared: bool
    micro_batch_tokens: int

    def __post_init__(self) -> None:
        if self.layout == "single":
            raise RefusedError(
                "this architecture takes one row at a time, and a pair is two",
                expected="an architecture whose rows can be packed or padded",
                cure="choose another model for this stage",
                place="packing",
            )

    def count_tokens(self, places: Sequence[Place]) -> list[int]:
        """Return the tokens that each row costs."""
        parts_of = [rows.part_lengths_RK for rows in self.sources]
        found = []
        for source, row in places:
            prompt, *completions = parts_of[source][row].tolist()
            found.append(sum(completions) + prompt * (1 if self.is_shared else len(completions)))
        return found

    def build_step(self, places: Sequence[Place], references: References | None = None) -> StepBatch:
        """Return this rank's micro-batches of a step, with the totals of all ranks; its weight is its rows' number."""
        micro_batches = [batch for _, batch in self.build_micro_batches(places, references)]
        trained = sum(
            int(part.is_trainable_T.sum()) for source, row in places for part in self.sources[source][row].completions
        )
        return StepBatch(micro_batches, float(len(places)), sum(self.count_tokens(places)), trained)

    def build_micro_batches(
        self, places: Sequence[Place], references: References | None = None
    ) -> Iterator[tuple[list[Place], MicroBatch]]:
        """Yield this rank's micro-batches of some rows, each with the rows in it; every rank gets as many."""
        has_filler = self.layout == "packed"
        for group in deal(self._group(places), self.ranks.count)[self.ranks.rank]:
            own = [places[index] for index in group]
            if not own:
                yield own, build_empty_micro_batch()
                continue
            families, first = [], 0
            for source, row in own:
                pair = self.sources[source][row]
                families.append(_build_family(pair, first, None if references is None else references[source][row]))
                first += len(pair.completions)
            yield own, build_family_batch(families, is_shared=self.is_shared, has_filler=has_filler)

    def _group(self, places: Sequence[Place]) -> list[list[int]]:
        if self.layout == "packed":
            return pack(self.count_tokens(places), self.micro_batch_tokens)
        widths = [self.sources[source].width for source, _ in places]
        parts_of = [rows.part_lengths_RK for rows in self.sources]
        longest = [int(parts_of[source][row][0] + parts_of[source][row][1:].max()) for source, row in places]
        return pack_padded(longest, max(1, self.micro_batch_tokens // max(widths, default=1)))


def _build_family(pair: RenderedPair, first: int, references_K: npt.NDArray[np.float64] | None) -> PromptFamily:
    """Return a row's prompt and completions, which are numbered from `first`."""
    parts = []
    for number, completion in enumerate(pair.completions):
        count = len(completion.ids_T)
        constants: dict[str, npt.NDArray[np.float32]] = {"branches": np.full(count, first + number)}
        if references_K is not None:
            constants["references"] = np.full(count, references_K[number], np.float32)
        weights = np.ones(count, np.float32)
        parts.append(ScoredCompletion(completion.ids_T, completion.is_trainable_T, weights, constants, pair.row_id))
    return PromptFamily(pair.prompt.ids_T, parts)


@torch.no_grad()
def compute_token_logprobs(policy: ScoredPolicy, batch: MicroBatch) -> torch.Tensor:
    """Return the policy's log-probs of a micro-batch's scored tokens, [N], without a gradient."""
    return policy(batch, _keep, torch.zeros_like(batch.weights_N)).logprobs_N


def _keep(logprobs_N: torch.Tensor, constants: Mapping[str, torch.Tensor]) -> torch.Tensor:
    del constants
    return logprobs_N


def sum_completions(logprobs_N: torch.Tensor, constants: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the sum over each completion of a micro-batch, [S]."""
    branches_N = constants["branches"]
    count = int(branches_N.max()) + 1 if len(branches_N) else 0
    return logprobs_N.new_zeros(count).index_add(0, branches_N, logprobs_N)
