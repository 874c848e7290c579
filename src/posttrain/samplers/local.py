"""The house's own engine: completions drawn in this process, many at a time.

One pool of problems times samples is run with continuous batching (`samplers/pool.py`): each prompt is run once
per problem and its keys and values are shared by the problem's samples, sequences that end leave their row to
others, and each draws from its own counted stream of random numbers, so that what it is given does not depend
on its neighbours (in fp32 nor does the text; bf16 products of another shape may round otherwise).

Completions come as they finish. Log-probs are the engine's own; how far they are from a trainer's is measured
there, not assumed here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from posttrain.core.errors import DataError, SamplerError
from posttrain.core.records import Completion, Problem
from posttrain.core.sampling import LOWER_MAX_NEW_TOKENS, PolicyVersion, SamplingSettings
from posttrain.kernels.cached_attention import PromptPiece
from posttrain.kernels.native_drawing import NativeDrawing
from posttrain.kernels.token_logprobs import Head
from posttrain.samplers.completions import build_completion
from posttrain.samplers.constraints import ConstraintCompiler
from posttrain.samplers.graphs import DecodePass, EagerDecode, RecordedDecode, record_cuda
from posttrain.samplers.kv_cache import CacheSizes, KvCache, LayerShape
from posttrain.samplers.pool import EngineParts, OnTokens, Pool, compute_logits, round_up_rows
from posttrain.samplers.watch import DrawingRequest, build_request, check_publishable

PromptRenderer = Callable[[Sequence[Problem]], Sequence[Sequence[int]]]
"""Turns problems into prompt ids, generation prompt included, in order."""

_PROBE_TOKENS = 16
_PROBE_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.25, torch.float16: 0.03}


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What the engine may take: sequences at once, bytes of keys and values, tokens of a pass over prompts.

    `record_passes`: on a GPU, record each decode pass once and replay it (CUDA graphs).
    """

    max_rows: int = 256
    cache_bytes: int = 4 << 30
    prefill_tokens: int = 2048
    record_passes: bool = True


@dataclass(frozen=True, slots=True)
class EngineModel:
    """What the engine samples from. Made by the wiring from a `models.shadow.Shadow`.

    Args:
        backbone: Maps ids to hidden states; its attention is `kernels.cached_attention`.
        decode: Runs one new token of each sequence: the backbone too, or a leaner equal of it.
        find_head: Reads the head.
        shapes: What each layer keeps of a token (`samplers/probing.py`).
        refresh: Copies the weights of a live policy into the backbone.
        compute_reference: A live policy's log-probs of a row of ids, by its own means.
        context_tokens: Longest row that the model takes, None for no limit.
        needs_masks: Whether `decode` is told what to hide (`KvCache`), or reads lengths.
        drawing: Draws by compiled kernels where it can.
        notes: For the user, on how the parts were chosen.
    """

    backbone: Callable[..., Any]
    decode: DecodePass
    find_head: Callable[[], Head]
    shapes: Sequence[LayerShape]
    refresh: Callable[[Any], None]
    compute_reference: Callable[[Any, torch.Tensor], torch.Tensor]
    context_tokens: int | None
    needs_masks: bool = True
    drawing: NativeDrawing | None = None
    notes: tuple[str, ...] = ()


# many parameters: a sampler is built once, of parts that have no other common home
class LocalSampler:
    """Draws completions from a policy held in this process (`core.sampling.Sampler`).

    Args:
        model: What to sample from.
        policy_hash: Names the weights that the model holds.
        render_prompts: Gives the exact prompt ids of problems.
        decode: Gives the text of ids.
        stop_ids: The policy's own stop tokens.
        constraints: Compiles constraints for the policy's tokenizer; None refuses them.
        options: Rows, memory, passes.

    Set `on_tokens` to be told of every token as it is drawn, stop tokens too, before its completion is yielded.
    """

    def __init__(
        self,
        model: EngineModel,
        policy_hash: str,
        render_prompts: PromptRenderer,
        decode: Callable[[Sequence[int]], str],
        *,
        stop_ids: Sequence[int] = (),
        constraints: ConstraintCompiler | None = None,
        options: EngineOptions | None = None,
    ) -> None:
        self.policy_hash = policy_hash
        self.options = options or EngineOptions()
        self._model = model
        self._render_prompts = render_prompts
        self._decode = decode
        self._stop_ids = tuple(stop_ids)
        self._constraints = constraints
        weight = model.find_head().weight
        is_recorded = weight.device.type == "cuda" and self.options.record_passes
        self._cache = KvCache(
            model.shapes,
            weight.dtype,
            weight.device,
            self.options.cache_bytes,
            has_masks=model.needs_masks,
            is_fixed=is_recorded,
        )
        self._decode_pass: EagerDecode | RecordedDecode = EagerDecode(model.decode, self._cache)
        if is_recorded:
            self._decode_pass = RecordedDecode(model.decode, self._cache, record_cuda)
        self._is_busy = False
        self.on_tokens: OnTokens | None = None

    def sample(
        self, problems: Sequence[Problem], settings: SamplingSettings, seeds: Sequence[int]
    ) -> Iterator[tuple[int, Completion]]:
        """Yield (index of the problem, completion) as they finish; closing the iterator cancels the rest.

        Args:
            problems: What to answer.
            settings: How to draw.
            seeds: One for each problem.

        Raises:
            DataError: A prompt is empty, or leaves no room for `max_new_tokens` in the model's context.
            RecipeError: The constraint cannot be used.
            SamplerError: The engine is drawing already, the budget does not hold one sequence, or the model
                gave logits that are not finite.
        """
        if len(seeds) != len(problems):
            raise ValueError(f"{len(seeds)} seeds for {len(problems)} problems")
        prompts = [list(map(int, ids)) for ids in self._render_prompts(problems)]
        check_prompts(problems, prompts, settings, self._model.context_tokens)
        request = build_request(settings, self._stop_ids, self._decode, self._constraints, self._cache.device)
        return self._sample(problems, prompts, seeds, request)

    def _sample(
        self, problems: Sequence[Problem], prompts: Sequence[list[int]], seeds: Sequence[int], request: DrawingRequest
    ) -> Iterator[tuple[int, Completion]]:
        if not problems:
            return
        if not self.policy_hash:
            raise SamplerError(
                "the engine holds weights of no known policy, since publishing them failed",
                expected="a policy that was published",
                cure="publish a policy again, or build the sampler anew",
            )
        if self._is_busy:
            raise SamplerError(
                "the engine is drawing for another iterator",
                expected="one at a time",
                cure="read the first iterator to its end, or close it",
            )
        self._is_busy = True
        try:
            parts = EngineParts(
                self._model.backbone,
                self._decode_pass,
                self._model.find_head(),
                self._cache,
                self.options.prefill_tokens,
                self._model.drawing,
            )
            sizes = self._cut(prompts, request.settings)
            pool = Pool(parts, sizes, request.settings, request.stop_ids, request.watch)
            pool.on_tokens = self.on_tokens
            for finished in pool.run(prompts, seeds):
                index = finished.group.index
                yield index, build_completion(problems[index], finished, self._decode, self.policy_hash)
        finally:
            self._cache.end_call()
            self._is_busy = False

    def publish(self, policy: PolicyVersion) -> str:
        """Take over a live policy's weights, and prove on a probe that they are in use.

        Raises:
            SamplerError: A sampling is under way, the policy is not in this process, or the probe's log-probs
                differ from the policy's own.
        """
        check_publishable(policy, is_drawing=self._is_busy)
        self.policy_hash = ""  # no policy's, until the probe has shown that the copy is whole
        self._model.refresh(policy.model)
        self.check_probe(policy.model)
        self.policy_hash = policy.hash
        return policy.hash

    def check_probe(self, live_model: Any) -> float:
        """Return the largest difference of the engine's log-probs of a probe from a live policy's own, in nats.

        Raises:
            SamplerError: It is larger than rounding explains.
        """
        head = self._model.find_head()
        ids = (torch.arange(_PROBE_TOKENS, device=head.weight.device) * 7 + 1) % head.weight.shape[0]
        expected = self._model.compute_reference(live_model, ids).float()
        found = self._score_probe(ids)
        difference = float((found - expected).abs().max())
        allowed = _PROBE_TOLERANCE.get(head.weight.dtype, 1e-4)
        if not difference <= allowed:
            raise SamplerError(
                f"the engine's log-probs of a probe differ from the published policy's by {difference:.3g} nats",
                expected=f"at most {allowed:g}",
                cure="the weights that are sampled from are not those that were published: build the sampler anew",
                place="publish",
            )
        return difference

    @torch.inference_mode()
    def _score_probe(self, ids_T: torch.Tensor) -> torch.Tensor:
        count = len(ids_T)
        self._cache.cut(CacheSizes(1, count))
        step = self._cache.build_prefill([PromptPiece(0, 0, count)], is_shared=False)
        positions = torch.arange(count, device=ids_T.device)
        output = self._model.backbone(
            input_ids=ids_T[None], position_ids=positions[None], use_cache=False, cached_step=step
        )
        self._cache.end_call()
        logits = compute_logits(output.last_hidden_state[0, :-1], self._model.find_head()).float()
        return logits.log_softmax(-1).gather(1, ids_T[1:, None])[:, 0]

    def close(self) -> None:
        """Give the buffers back; a sampler that was closed can be used again."""
        self._cache.release()

    def _cut(self, prompts: Sequence[list[int]], settings: SamplingSettings) -> CacheSizes:
        """Cut the buffers for a call: shared prompts where problems have several samples."""
        longest = max(map(len, prompts))
        samples = settings.num_samples
        wanted = min(self.options.max_rows, round_up_rows(len(prompts) * samples))
        own = settings.max_new_tokens + (longest if samples == 1 else 0)
        sizes = self._cache.count_rows(wanted, own, longest if samples > 1 else 0, samples)
        self._cache.cut(sizes)
        return sizes


def check_prompts(
    problems: Sequence[Problem], prompts: Sequence[Sequence[int]], settings: SamplingSettings, context: int | None
) -> None:
    """Refuse prompts that cannot be answered, before anything is drawn.

    Raises:
        DataError: A prompt is empty, or leaves no room for `max_new_tokens` in the model's context.
    """
    for problem, prompt in zip(problems, prompts, strict=True):
        if not prompt:
            raise DataError("the prompt is empty", expected="at least one token", place=problem.problem_id)
        if context is not None and len(prompt) + settings.max_new_tokens > context:
            raise DataError(
                f"a prompt of {len(prompt)} tokens and max_new_tokens {settings.max_new_tokens}",
                expected=f"at most {context} tokens together, the model's context",
                cure=f"{LOWER_MAX_NEW_TOKENS}, or leave out or shorten this row",
                place=problem.problem_id,
            )
