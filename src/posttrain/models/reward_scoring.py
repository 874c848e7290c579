"""Scores of given completions by a reward model, the same whatever else is scored with them.

Completions of one prompt share its tokens where that is proven exact (`models.heads.is_sharing_exact`). Shape letters:
M members, N completions, K outputs, R tokens that are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from posttrain.core.errors import DataError
from posttrain.kernels.attention import choose_masked_attention, register_packed_attention
from posttrain.kernels.layouts import Layout, run_families, run_packed, run_padded
from posttrain.kernels.readings import LaidOut, Reading, group_readings, lay_out_readings
from posttrain.models.heads import (
    attention_backend,
    choose_layout,
    evaluation_mode,
    find_backbone,
    is_sharing_exact,
)
from posttrain.models.reward_models import LoadedRewardModel, find_score_head

Floats = npt.NDArray[np.float64]


class RewardScoring:
    """Scores completions by every member of a reward model.

    Args:
        model: The reward model.
        micro_batch_tokens: Most tokens of a pass; a longer prompt with its completions runs alone.
        members: The numbers of those that score, from 0; None: all.
    """

    def __init__(
        self, model: LoadedRewardModel, micro_batch_tokens: int = 8192, members: Sequence[int] | None = None
    ) -> None:
        self.model = model
        self.members = tuple(range(len(model.members)) if members is None else members)
        self.micro_batch_tokens = micro_batch_tokens
        first = model.members[0]
        self.layout: Layout = choose_layout(first)
        self.is_sharing = self.layout == "packed" and is_sharing_exact(first)
        self.num_embeddings = int(first.get_input_embeddings().weight.shape[0])
        self.context_tokens = getattr(first.config.get_text_config(), "max_position_embeddings", None)

    def score(self, readings: Sequence[Reading]) -> list[list[Floats]]:
        """Return of each reading's completions what its reads stand for, [M, R, K] each, M the members that score.

        Raises:
            DataError: An id that the model's vocabulary does not hold, a row longer than its context, or nothing to
                read.
        """
        for reading in readings:
            self._check(reading)
        parts = [part for reading in readings for part in self._cut(reading)]
        found = [self._score_member(self.model.members[number], parts) for number in self.members]
        facts = self.model.facts
        converted = [
            np.stack([facts.convert(values[index], number) for number, values in zip(self.members, found, strict=True)])
            for index in range(len(parts))
        ]
        completions = iter(
            piece
            for part, values in zip(parts, converted, strict=True)
            for piece in np.split(values, np.cumsum([len(places) for places in part.places])[:-1], axis=1)
        )
        return [[next(completions) for _ in reading.completions] for reading in readings]

    def _check(self, reading: Reading) -> None:
        largest = max((int(ids.max()) for ids in (reading.prompt, *reading.completions) if len(ids)), default=0)
        longest = len(reading.prompt) + max((len(ids) for ids in reading.completions), default=0)
        if largest >= self.num_embeddings:
            found = f"token id {largest:,}, where the reward model's vocabulary has {self.num_embeddings:,}"
            expected, cure = "tokens of the reward model's own tokenizer", "use a reward model made from this policy"
        elif self.context_tokens is not None and longest > self.context_tokens:
            found = f"a prompt and a completion of {longest:,} tokens"
            expected = f"at most {self.context_tokens:,}: the reward model's context"
            cure = "lower max_new_tokens, or use a reward model of a longer context"
        elif not reading.completions or 0 in (*map(len, reading.completions), *map(len, reading.places)):
            found, expected = "a completion without a token", "at least one token, whose score is read"
            cure = "leave it out"
        else:
            return
        raise DataError(found, expected=expected, cure=cure, place="reward model")

    def _cut(self, reading: Reading) -> list[Reading]:
        """Return a reading in parts that fit a pass, where its completions allow it."""
        if not self.is_sharing:
            return reading.split()
        parts: list[list[int]] = []
        room = 0
        for index, ids in enumerate(reading.completions):
            if not parts or len(ids) > room:
                parts.append([])
                room = self.micro_batch_tokens - len(reading.prompt)
            parts[-1].append(index)
            room -= len(ids)
        completions, places = reading.completions, reading.places
        return [
            Reading(reading.prompt, tuple(completions[i] for i in part), tuple(places[i] for i in part))
            for part in parts
        ]

    @torch.no_grad()
    def _score_member(self, member: Any, readings: Sequence[Reading]) -> list[npt.NDArray[np.float32]]:
        """Return a member's raw outputs at each reading's reads, [R, K]."""
        results: list[npt.NDArray[np.float32]] = [np.empty((0, 0), np.float32)] * len(readings)
        attention = register_packed_attention() if self.layout == "packed" else choose_masked_attention(member)
        with evaluation_mode(member), attention_backend(member, attention):
            for group in group_readings(readings, self.micro_batch_tokens, self.layout, is_shared=self.is_sharing):
                chosen = [readings[index] for index in group]
                laid_out = lay_out_readings(chosen, is_shared=self.is_sharing, has_filler=self.layout == "packed")
                values = self._run(member, laid_out)
                ends = np.cumsum([reading.num_reads for reading in chosen])[:-1]
                for index, part in zip(group, np.split(values, ends), strict=True):
                    results[index] = part
        return results

    def _run(self, member: Any, laid_out: LaidOut) -> npt.NDArray[np.float32]:
        head, backbone = find_score_head(member), find_backbone(member)
        ids_T = torch.from_numpy(laid_out.ids_T).to(head.weight.device)
        if laid_out.families is not None:
            hidden_TH = run_families(backbone, ids_T, laid_out.families)
        elif self.layout == "packed":
            hidden_TH = run_packed(backbone, ids_T, laid_out.lengths)
        else:
            hidden_TH = run_padded(backbone, ids_T, laid_out.lengths)
        hidden_RH = hidden_TH.index_select(0, torch.from_numpy(laid_out.reads_R).to(ids_T.device)).float()
        scores_RK = apply_head(hidden_RH, head)
        values: npt.NDArray[np.float32] = scores_RK.cpu().numpy()
        return values


def apply_head(hidden_RH: torch.Tensor, head: torch.nn.Linear) -> torch.Tensor:
    """Return a head's outputs in float32, whatever it is stored in."""
    bias = None if head.bias is None else head.bias.float()
    return torch.nn.functional.linear(hidden_RH.float(), head.weight.float(), bias)
