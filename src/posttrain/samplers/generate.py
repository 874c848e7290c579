"""A plain sampler over any transformers causal model: left-padded batches, one forward pass a token.

Problems are sorted by prompt length, so that little is padded. Every problem draws from its own stream
of random numbers, so that what it is given does not depend on which problems share its batch, except
where the model's own arithmetic rounds differently in a batch of another shape.
Shape letters: B problems of one batch, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from posttrain.core.errors import DataError
from posttrain.core.records import Completion, FinishReason, Problem
from posttrain.core.sampling import SamplingSettings
from posttrain.core.seeds import build_numpy_generator

PromptRenderer = Callable[[Sequence[Problem]], Sequence[Sequence[int]]]
"""Turns problems into prompt ids, generation prompt included, in order."""


@dataclass(frozen=True, slots=True)
class _Drawn:
    """What one row drew: ids with their log-probs, and how it ended."""

    ids: list[int]
    logprobs: list[float]
    finish_reason: FinishReason


class GenerateSampler:
    """Draws completions from a transformers model held in this process (`core.protocols.Sampler`).

    Args:
        model: A causal language model; it is put in evaluation mode while it draws.
        policy_hash: Names the weights that the model holds.
        render_prompts: Gives the exact prompt ids of problems.
        decode: Gives the text of ids.
        stop_ids: The policy's own stop tokens; drawing stops at them and at those of the settings.
        batch_size: Problems drawn at once; memory grows with it.
    """

    def __init__(
        self,
        model: Any,
        policy_hash: str,
        render_prompts: PromptRenderer,
        decode: Callable[[Sequence[int]], str],
        *,
        stop_ids: Sequence[int] = (),
        batch_size: int = 32,
    ) -> None:
        self.policy_hash = policy_hash
        self._model = model
        self._render_prompts = render_prompts
        self._decode = decode
        self._stop_ids = tuple(stop_ids)
        self._batch_size = batch_size

    def sample(
        self, problems: Sequence[Problem], settings: SamplingSettings, seeds: Sequence[int]
    ) -> Iterator[tuple[int, Completion]]:
        """Yield (index of the problem, completion) batch by batch, longest prompts first.

        The drawn ids include the stop token, the text does not. `sampler_logprobs` are nats under the
        distribution that was drawn from: logits over temperature, the whole vocabulary; for greedy
        drawing, temperature 1.

        Args:
            problems: What to answer.
            settings: Length, temperature and further stop ids.
            seeds: One for each problem.

        Raises:
            DataError: A prompt is empty, or leaves no room for `max_new_tokens` in the model's context.
        """
        if len(seeds) != len(problems):
            raise ValueError(f"{len(seeds)} seeds for {len(problems)} problems")
        settings = replace(settings, stop_ids=tuple({*self._stop_ids, *settings.stop_ids}))
        prompts = [list(ids) for ids in self._render_prompts(problems)]
        self._check_prompts(problems, prompts, settings)
        # Longest first: a batch that does not fit in memory fails at once, not at the end.
        order = sorted(range(len(problems)), key=lambda index: -len(prompts[index]))
        for start in range(0, len(order), self._batch_size):
            batch = order[start : start + self._batch_size]
            drawn = self._draw_batch([prompts[index] for index in batch], settings, [seeds[index] for index in batch])
            for index, row in zip(batch, drawn, strict=True):
                yield index, self._complete(problems[index], prompts[index], row, seeds[index])

    def _check_prompts(self, problems: Sequence[Problem], prompts: list[list[int]], settings: SamplingSettings) -> None:
        context = getattr(self._model.config, "max_position_embeddings", None)
        for problem, prompt in zip(problems, prompts, strict=True):
            if not prompt:
                raise DataError("the prompt is empty", expected="at least one token", place=problem.problem_id)
            if context is not None and len(prompt) + settings.max_new_tokens > context:
                raise DataError(
                    f"a prompt of {len(prompt)} tokens and max_new_tokens {settings.max_new_tokens}",
                    expected=f"at most {context} tokens together, the model's context",
                    cure="lower max_new_tokens, or leave out or shorten this row",
                    place=problem.problem_id,
                )

    def _complete(self, problem: Problem, prompt: list[int], row: _Drawn, seed: int) -> Completion:
        text_ids = row.ids[:-1] if row.finish_reason == "stop" else row.ids
        return Completion(
            problem_id=problem.problem_id,
            sample_index=0,
            prompt_ids=np.array(prompt, dtype=np.int32),
            ids=np.array(row.ids, dtype=np.int32),
            text=self._decode(text_ids),
            finish_reason=row.finish_reason,
            policy_hash=self.policy_hash,
            seed=seed,
            sampler_logprobs=np.array(row.logprobs, dtype=np.float32),
        )

    @torch.no_grad()
    def _draw_batch(self, prompts: list[list[int]], settings: SamplingSettings, seeds: Sequence[int]) -> list[_Drawn]:
        was_training = self._model.training
        self._model.eval()
        try:
            ids_BT, logprobs_BT = self._draw_tokens(prompts, settings, seeds)
        finally:
            self._model.train(was_training)
        return [_cut_at_stop(ids_BT[row], logprobs_BT[row], settings) for row in range(len(prompts))]

    def _draw_tokens(
        self, prompts: list[list[int]], settings: SamplingSettings, seeds: Sequence[int]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Return drawn ids and their log-probs; what follows a row's stop token is to be ignored."""
        device = self._model.device
        ids_BT, mask_BT = _pad_left(prompts, device)
        stops = torch.tensor(settings.stop_ids, dtype=torch.long, device=device)
        uniforms_BT = np.stack([build_numpy_generator(seed, "draw").random(settings.max_new_tokens) for seed in seeds])
        positions_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
        is_done_B = torch.zeros(len(prompts), dtype=torch.bool, device=device)
        cache, drawn, logprobs = None, [], []
        for step in range(settings.max_new_tokens):
            output = self._model(
                input_ids=ids_BT,
                attention_mask=mask_BT,
                position_ids=positions_BT,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache = output.past_key_values
            ids_B, logprobs_B = draw_tokens(output.logits[:, -1], settings.temperature, uniforms_BT[:, step])
            drawn.append(ids_B.cpu().numpy())
            logprobs.append(logprobs_B.cpu().numpy())
            is_done_B |= torch.isin(ids_B, stops)
            if is_done_B.all():
                break
            ids_BT, positions_BT = ids_B[:, None], positions_BT[:, -1:] + 1
            mask_BT = torch.cat([mask_BT, mask_BT.new_ones(len(prompts), 1)], dim=1)
        return np.stack(drawn, axis=1), np.stack(logprobs, axis=1)


def draw_tokens(
    logits_BV: torch.Tensor, temperature: float, uniforms_B: npt.NDArray[np.float64]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return one token for each row, and its log-prob in nats under the distribution drawn from.

    At temperature 0 the most probable token (the lowest id of equals), with its log-prob at
    temperature 1. Else the token at which the cumulative probability of `logits / temperature`, in the
    order of ids, first exceeds the row's uniform number: the inverse of the distribution function.

    Args:
        logits_BV: Any float type; computed in float64, so that the cumulative sum is exact enough.
        temperature: 0 or above.
        uniforms_B: In [0, 1), one a row.
    """
    scores_BV = logits_BV.double()
    if temperature == 0:
        ids_B = scores_BV.argmax(dim=-1)
        return ids_B, scores_BV.log_softmax(dim=-1).gather(1, ids_B[:, None])[:, 0]
    logprobs_BV = (scores_BV / temperature).log_softmax(dim=-1)
    cumulative_BV = logprobs_BV.exp().cumsum(dim=-1)
    # The sum may fall short of 1 by rounding: scaled by it, the target is always below the last entry.
    targets_B1 = torch.as_tensor(uniforms_B, device=logits_BV.device)[:, None] * cumulative_BV[:, -1:]
    ids_B = torch.searchsorted(cumulative_BV, targets_B1, right=True)[:, 0].clamp(max=logits_BV.shape[1] - 1)
    return ids_B, logprobs_BV.gather(1, ids_B[:, None])[:, 0]


def _pad_left(prompts: list[list[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    length = max(len(prompt) for prompt in prompts)
    # Any id may pad: the mask hides it.
    ids_BT = torch.zeros(len(prompts), length, dtype=torch.long)
    mask_BT = torch.zeros(len(prompts), length, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids_BT[row, length - len(prompt) :] = torch.tensor(prompt)
        mask_BT[row, length - len(prompt) :] = 1
    return ids_BT.to(device), mask_BT.to(device)


def _cut_at_stop(
    ids_T: npt.NDArray[np.int64], logprobs_T: npt.NDArray[np.float64], settings: SamplingSettings
) -> _Drawn:
    hits = np.flatnonzero(np.isin(ids_T, settings.stop_ids))
    length = int(hits[0]) + 1 if hits.size else len(ids_T)
    return _Drawn(ids_T[:length].tolist(), logprobs_T[:length].tolist(), "stop" if hits.size else "length")
