"""vLLM as a sampler: an engine in another process and another environment, proven to hold the published weights.

Prompts go in as ids and completions come out as ids; no text is tokenized. Log-probs of drawn tokens are
vLLM's raw ones: the full distribution at temperature 1. After every publication vLLM scores one fixed
sequence, and the log-probs must be those of the published weights; until they are, nothing is drawn.
Shape letters: T tokens, K most probable tokens of a position.
"""

from __future__ import annotations

import shutil
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from posttrain.core.errors import DataError, RecipeError
from posttrain.core.records import Completion, FinishReason, Problem, TopLogprobs
from posttrain.core.sampling import LOWER_MAX_NEW_TOKENS, PolicyVersion, SamplingSettings, derive_sample_seed
from posttrain.core.seeds import derive_seed
from posttrain.samplers.vllm_process import Mailbox, VllmError, VllmProcess
from posttrain.samplers.vllm_settings import (
    EngineInfo,
    VllmSettings,
    build_constraint,
    build_engine_arguments,
    build_parameters,
    check_constraint,
    check_settings,
)
from posttrain.samplers.vllm_texts import cut_at_stop_string, prepare_tokenizer

NUM_PROBE_TOKENS = 48
# A reference that moves by more than this share of the tolerance cannot leave vLLM's own numbers untouched.
_UNMOVED_SHARE = 0.01

PolicyExporter = Callable[[PolicyVersion, Path], None]
"""Writes a policy into an empty folder as a plain model: config.json and safetensors, adapters merged."""

ProbeScorer = Callable[[PolicyVersion, Sequence[int]], Sequence[float]]
"""Gives the log-probs of every token of a sequence but the first, under a policy at temperature 1."""


class VllmSampler:
    """Draws completions with vLLM (`core.sampling.Sampler`); it starts when it is built.

    Args:
        settings: How vLLM runs.
        policy: What to draw from first. A folder in plain Hugging Face format is loaded as it is; anything
            else is exported first.
        render_prompts: Gives the exact prompt ids of problems.
        decode: Gives the text of ids.
        export: Writes a policy as a plain model folder, for live models and artifacts with adapters. For
            stop strings and constraints the first folder needs a tokenizer.json.
        compute_logprobs: Gives the log-probs that vLLM has to reproduce.
        stop_ids: The policy's own stop tokens; a constraint ends with the first of them.

    Raises:
        VllmError: vLLM cannot be started, or does not hold the policy.

    `is_repeatable` says whether a seed decides what is drawn at temperatures above 0: some builds of vLLM
    cannot seed a single request, and draw from one shared stream then. Seeds are recorded all the same.
    """

    def __init__(
        self,
        settings: VllmSettings,
        policy: PolicyVersion,
        render_prompts: Callable[[Sequence[Problem]], Sequence[Sequence[int]]],
        decode: Callable[[Sequence[int]], str],
        *,
        export: PolicyExporter,
        compute_logprobs: ProbeScorer,
        stop_ids: Sequence[int] = (),
    ) -> None:
        self._settings = settings
        self._render_prompts = render_prompts
        self._decode = decode
        self._export = export
        self._compute_logprobs = compute_logprobs
        self._stop_ids = tuple(stop_ids)
        self._gate = threading.RLock()
        self._last_probe: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None = None
        self._distrust: VllmError | None = None
        self._process = VllmProcess(settings)
        try:
            folder = self._find_folder(policy)
            tokenizer = prepare_tokenizer(folder, self._process.scratch / "tokenizer", self._stop_ids)
            self._has_tokenizer = tokenizer is not None
            self._engine: EngineInfo = self._process.start(build_engine_arguments(settings, folder, tokenizer))
            self._probe_ids = settings.probe_ids or build_probe(self._engine)
            self._prove(self._compute_expected(policy), is_other=True)
            self._drop_weights(folder)
        except BaseException:
            self._process.close()
            raise
        self.policy_hash = policy.hash
        self.is_repeatable = self._engine.is_seeded
        if not self.is_repeatable:
            warnings.warn(
                "this build of vLLM cannot seed a single request: what is drawn above temperature 0 is not repeatable",
                stacklevel=2,
            )

    def sample(
        self, problems: Sequence[Problem], settings: SamplingSettings, seeds: Sequence[int]
    ) -> Iterator[tuple[int, Completion]]:
        """Yield (index of the problem, completion) as they finish; closing the iterator cancels the rest.

        Args:
            problems: What to answer.
            settings: How to draw. `sampler_logprobs` are nats under the full distribution at temperature 1;
                `drawing_logprobs` are given where they follow: greedy, or temperature 1 with nothing cut but by
                a constraint.
            seeds: One for each problem.

        Raises:
            RecipeError: vLLM would draw otherwise than the settings say; the setting is named.
            DataError: A prompt is empty, or leaves no room for `max_new_tokens` in the engine's context.
            VllmError: The engine has died, or refuses a request.
        """
        if len(seeds) != len(problems):
            raise ValueError(f"{len(seeds)} seeds for {len(problems)} problems")
        self._process.check()
        check_settings(settings, self._engine, has_tokenizer=self._has_tokenizer)
        check_constraint(settings, self._stop_ids)
        prompts = [[int(token) for token in ids] for ids in self._render_prompts(problems)]
        self._check_prompts(problems, prompts, settings)
        return self._draw(problems, prompts, settings, seeds)

    def publish(self, policy: PolicyVersion) -> str:
        """Take over a policy's weights, prove that vLLM holds them, and return the policy's hash.

        A folder in plain Hugging Face format is loaded as it is, anything else exported first. If vLLM's
        log-probs are not those of the policy, nothing can be drawn until another publication succeeds.

        Raises:
            VllmError: Completions are being drawn, vLLM cannot load the weights (it is ended then), or it
                does not hold them afterwards.
        """
        with self._gate:
            self._process.check()
            if self._process.num_open:
                raise VllmError(
                    "refused",
                    f"a policy is published while {self._process.num_open} completions are being drawn",
                    expected="every completion drawn from one policy",
                    cure="exhaust or close the iterators of sample() first",
                )
            folder, expected = self._find_folder(policy), self._compute_expected(policy)
            self._distrust = VllmError("weights", "the last publication failed", cure="publish again, or build another")
            self._process.ask({"kind": "load", "folder": str(folder)})
            self._drop_weights(folder)
            self._prove(expected, is_other=policy.hash != self.policy_hash)
            self._distrust = None
            self.policy_hash = policy.hash
        return self.policy_hash

    def close(self) -> None:
        """End vLLM and everything it started; iterators that are open fail. Again does nothing."""
        self._process.close()

    def _find_folder(self, policy: PolicyVersion) -> Path:
        """Return a plain model folder of a policy, made here if need be."""
        if policy.folder is not None and _is_plain(policy.folder):
            return policy.folder.resolve()
        folder = self._process.scratch / "weights"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        self._export(policy, folder)
        return folder

    def _drop_weights(self, folder: Path) -> None:
        """Free the disk of weights that were exported for vLLM, which has them in memory now."""
        if folder.parent == self._process.scratch:
            for path in folder.glob("*.safetensors"):
                path.unlink()

    def _compute_expected(self, policy: PolicyVersion) -> npt.NDArray[np.float64]:
        expected = np.asarray(self._compute_logprobs(policy, self._probe_ids), dtype=np.float64)
        if expected.shape != (len(self._probe_ids) - 1,):
            raise ValueError(f"log-probs of shape {expected.shape} for a probe of {len(self._probe_ids)} tokens")
        return expected

    def _prove(self, expected: npt.NDArray[np.float64], *, is_other: bool) -> None:
        """Compare vLLM's log-probs of the probe with the policy's.

        Args:
            expected: The policy's own.
            is_other: Whether it is another policy than the last.

        Raises:
            VllmError: They differ by more than rounding explains, or have not moved though the policy's have.
        """
        found = np.array(self._process.ask({"kind": "score", "ids": list(self._probe_ids)})["logprobs"])
        tolerance = self._settings.tolerance_nats
        difference = float(np.abs(found - expected).mean())
        if not difference <= tolerance:
            raise VllmError(
                "weights",
                f"vLLM's log-probs of the probe differ from the policy's by {difference:.3g} nats a token on average",
                expected=f"at most {tolerance:g}, what rounding in {self._settings.dtype} explains",
                cure="vLLM holds other weights than were published: build another sampler from the policy",
            )
        if self._last_probe is not None and is_other:
            moved = float(np.abs(expected - self._last_probe[0]).mean())
            if moved > _UNMOVED_SHARE * tolerance and np.array_equal(found, self._last_probe[1]):
                raise VllmError(
                    "weights",
                    f"vLLM's log-probs of the probe are what they were, though the policy's moved by {moved:.3g} nats",
                    expected="the weights that were published last",
                    cure="vLLM has kept its old weights: build another sampler from the policy",
                )
        self._last_probe = expected, found

    def _check_prompts(self, problems: Sequence[Problem], prompts: list[list[int]], settings: SamplingSettings) -> None:
        # What was drawn under a constraint is scored afterwards, and a scoring draws a token of its own.
        context = self._engine.context_tokens - (settings.constraint is not None)
        for problem, prompt in zip(problems, prompts, strict=True):
            if not prompt:
                raise DataError("the prompt is empty", expected="at least one token", place=problem.problem_id)
            if len(prompt) + settings.max_new_tokens > context:
                raise DataError(
                    f"a prompt of {len(prompt)} tokens and max_new_tokens {settings.max_new_tokens}",
                    expected=f"at most {context} tokens together, the engine's context",
                    cure=f"{LOWER_MAX_NEW_TOKENS}, raise context_tokens, or leave out or shorten this row",
                    place=problem.problem_id,
                )

    def _draw(
        self,
        problems: Sequence[Problem],
        prompts: list[list[int]],
        settings: SamplingSettings,
        seeds: Sequence[int],
    ) -> Iterator[tuple[int, Completion]]:
        parameters = build_parameters(settings, self._stop_ids)
        constraint = build_constraint(settings.constraint)
        samples = [(index, number) for index in range(len(problems)) for number in range(settings.num_samples)]
        sample_seeds = [derive_sample_seed(seeds[index], number) for index, number in samples]
        messages = [
            {
                "kind": "draw",
                "ids": prompts[index],
                "parameters": {**parameters, "seed": seed if self.is_repeatable and settings.temperature else None},
                "constraint": constraint,
            }
            for (index, _), seed in zip(samples, sample_seeds, strict=True)
        ]
        with self._gate:
            if self._distrust is not None:
                raise self._distrust
            policy_hash, box = self.policy_hash, self._process.submit(messages)
        try:
            for answer in self._answers(box):
                position = answer["id"] - box.first
                index, number = samples[position]
                _check_answer(answer, problems[index], settings)
                drawn = self._cut(answer, settings)
                yield (
                    index,
                    Completion(
                        problem_id=problems[index].problem_id,
                        sample_index=number,
                        prompt_ids=np.array(prompts[index], dtype=np.int32),
                        policy_hash=policy_hash,
                        seed=sample_seeds[position],
                        **drawn,
                    ),
                )
        finally:
            self._process.cancel(box)

    def _answers(self, box: Mailbox) -> Iterator[dict[str, Any]]:
        while box.waiting or box.answers:
            yield self._process.take(box)

    def _cut(self, answer: dict[str, Any], settings: SamplingSettings) -> dict[str, Any]:
        """Return what was drawn as the fields of a completion, ended where the settings say.

        Raises:
            VllmError: vLLM stopped at a text that the ids do not hold as this project decodes them.
        """
        ids, finish_reason = answer["ids"], _read_finish(answer)
        is_at_stop_token = isinstance(answer["stop"], int)
        text = self._decode(ids[:-1] if is_at_stop_token else ids)
        if settings.stop_strings:
            cut = cut_at_stop_string(ids[:-1] if is_at_stop_token else ids, self._decode, settings.stop_strings)
            if cut is not None:
                ids, text, finish_reason = ids[: cut.num_ids], cut.text, "stop"
            elif isinstance(answer["stop"], str):
                raise VllmError(
                    "refused",
                    f"vLLM stopped at {answer['stop']!r}, and the ids say {text[-80:]!r}",
                    expected="one decoding of the same ids",
                    cure="stop at token ids (stop_ids), or draw with another sampler",
                )
        return {
            "ids": np.array(ids, dtype=np.int32),
            "text": text,
            "finish_reason": finish_reason,
            "sampler_logprobs": np.array(answer["logprobs"][: len(ids)], dtype=np.float32),
            "drawing_logprobs": _find_drawing_logprobs(answer, settings, len(ids)),
            "top_logprobs": _build_top(answer, len(ids)) if settings.top_logprobs else None,
        }


def build_probe(engine: EngineInfo) -> tuple[int, ...]:
    """Return the fixed sequence by which an engine's weights are known: the same for the same vocabulary."""
    length = min(NUM_PROBE_TOKENS, engine.context_tokens - 1)
    return tuple(derive_seed("vllm probe", position) % engine.vocabulary_size for position in range(length))


def _is_plain(folder: Path) -> bool:
    has_weights = any((folder / name).is_file() for name in ("model.safetensors", "model.safetensors.index.json"))
    return has_weights and (folder / "config.json").is_file()


def _read_finish(answer: dict[str, Any]) -> FinishReason:
    return "stop" if answer["finish_reason"] == "stop" else "length"


def _find_drawing_logprobs(
    answer: dict[str, Any], settings: SamplingSettings, length: int
) -> npt.NDArray[np.float32] | None:
    """Return the log-probs under the distribution drawn from, where they follow from what vLLM gives.

    Greedy: 0. At temperature 1 with nothing cut: those of the full distribution; where nothing but a
    constraint cuts: those of the tokens that it allows.
    """
    if settings.temperature == 0:
        return np.zeros(length, dtype=np.float32)
    if settings.temperature == 1 and not replace(settings, constraint=None).is_truncated:
        values = answer["logprobs"] if settings.constraint is None else answer["allowed_logprobs"]
        return np.array(values[:length], dtype=np.float32)
    return None


def _build_top(answer: dict[str, Any], length: int) -> TopLogprobs:
    return TopLogprobs(
        np.array(answer["top_ids"][:length], dtype=np.int32),
        np.array(answer["top_logprobs"][:length], dtype=np.float32),
    )


def _check_answer(answer: dict[str, Any], problem: Problem, settings: SamplingSettings) -> None:
    if answer["kind"] != "refused":
        return
    text = f"{answer['error']}: {answer['message']}".removeprefix(": ")
    if settings.constraint is not None and "rammar" in text:
        raise RecipeError(
            f"vLLM cannot read the constraint: {text}",
            expected=f"a {settings.constraint.kind} that llguidance takes",
            cure="correct the constraint",
            place="constraint",
        )
    raise VllmError(
        "refused", f"vLLM refuses problem {problem.problem_id}: {text}", cure="leave the problem out, or correct it"
    )
