"""A sampler over any transformers causal model, for those that the house's own engine (`local.py`) cannot take.

It draws from the very model that it is given, in left-padded batches, one forward pass a token. Each sequence
draws from its own counted stream of random numbers, so that what it is given does not depend on what shares its
batch, except where the model's own arithmetic rounds differently in a batch of another shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from posttrain.core.errors import SamplerError
from posttrain.core.records import Completion, Problem
from posttrain.core.sampling import PolicyVersion, SamplingSettings, derive_sample_seed
from posttrain.samplers.completions import build_completion
from posttrain.samplers.constraints import ConstraintCompiler
from posttrain.samplers.local import PromptRenderer, check_prompts
from posttrain.samplers.padded import PaddedBatch, PaddedModel, drawing_mode, find_plain_model
from posttrain.samplers.pool import Finished
from posttrain.samplers.rows import Group, Running
from posttrain.samplers.watch import DrawingRequest, build_request, check_publishable


# many parameters: a sampler is built once, of parts that have no other common home
class GenerateSampler:
    """Draws completions from a transformers model held in this process (`core.sampling.Sampler`).

    Args:
        model: A causal language model, which may be a policy that is trained; while it draws it is in evaluation
            mode, and between completions in the mode that it was in.
        policy_hash: Names the weights that the model holds.
        render_prompts: Gives the exact prompt ids of problems.
        decode: Gives the text of ids.
        stop_ids: The policy's own stop tokens.
        constraints: Compiles constraints for the policy's tokenizer; None refuses them.
        batch_size: Sequences drawn at once; memory grows with it.
    """

    def __init__(
        self,
        model: Any,
        policy_hash: str,
        render_prompts: PromptRenderer,
        decode: Callable[[Sequence[int]], str],
        *,
        stop_ids: Sequence[int] = (),
        constraints: ConstraintCompiler | None = None,
        batch_size: int = 32,
    ) -> None:
        self.policy_hash = policy_hash
        self._render_prompts = render_prompts
        self._decode = decode
        self._stop_ids = tuple(stop_ids)
        self._constraints = constraints
        self._batch_size = batch_size
        self._num_open = 0
        self._take(model)

    def sample(
        self, problems: Sequence[Problem], settings: SamplingSettings, seeds: Sequence[int]
    ) -> Iterator[tuple[int, Completion]]:
        """Yield (index of the problem, completion) as they finish, longest prompts first; closing it cancels the rest.

        Args:
            problems: What to answer.
            settings: How to draw.
            seeds: One for each problem.

        Raises:
            DataError: A prompt is empty, or leaves no room for `max_new_tokens` in the model's context.
            RecipeError: The constraint cannot be used.
            SamplerError: While drawing: the model gave logits that are not finite, or its weights are no longer
                those that the policy's hash names.
        """
        if len(seeds) != len(problems):
            raise ValueError(f"{len(seeds)} seeds for {len(problems)} problems")
        prompts = [list(map(int, ids)) for ids in self._render_prompts(problems)]
        config = find_plain_model(self._model).config.get_text_config()
        check_prompts(problems, prompts, settings, getattr(config, "max_position_embeddings", None))
        request = build_request(settings, self._stop_ids, self._decode, self._constraints, self._padded.device)
        return self._sample(problems, prompts, seeds, request)

    def publish(self, policy: PolicyVersion) -> str:
        """Draw from a live policy's model from now on, as its weights are now.

        Nothing is copied: the weights may change only until the next completion is drawn under this hash, and
        drawing after that is an error until they are published again.

        Raises:
            SamplerError: An iterator is still read, or the policy is not in this process.
        """
        check_publishable(policy, is_drawing=self._num_open > 0)
        self._take(policy.model)
        self.policy_hash = policy.hash
        return policy.hash

    def close(self) -> None:
        """Do nothing: caches are those of iterators, which give them back when they end or are closed."""

    def _take(self, model: Any) -> None:
        self._model = model
        self._padded = PaddedModel(model)
        self._versions = _read_versions(model)
        self._is_padding_exact: bool | None = None  # found out when it is first needed

    def _sample(
        self, problems: Sequence[Problem], prompts: Sequence[list[int]], seeds: Sequence[int], request: DrawingRequest
    ) -> Iterator[tuple[int, Completion]]:
        groups = [Group(index, ids, [seed]) for index, (ids, seed) in enumerate(zip(prompts, seeds, strict=True))]
        # Longest first: a batch that does not fit in memory fails at once, not at the end.
        groups.sort(key=lambda group: -len(group.prompt))
        sequences = [
            Running(group, sample, derive_sample_seed(group.seeds[0], sample))
            for group in groups
            for sample in range(request.settings.num_samples)
        ]
        policy_hash = self.policy_hash
        self._num_open += 1
        try:
            for batch in self._cut_batches(sequences):
                for finished in self._draw_batch(batch, request):
                    index = finished.group.index
                    yield index, build_completion(problems[index], finished, self._decode, policy_hash)
        finally:
            self._num_open -= 1

    def _cut_batches(self, sequences: Sequence[Running]) -> Iterator[Sequence[Running]]:
        """Yield sequences that are drawn together: of one length where a model is not exact under padding."""
        if self._is_padding_exact is None and sequences:
            self._check_unchanged()
            self._is_padding_exact = self._padded.is_padding_exact()
            self._versions = _read_versions(self._model)
        start = 0
        while start < len(sequences):
            length = len(sequences[start].group.prompt)
            end = start + 1
            while end < min(start + self._batch_size, len(sequences)):
                if not self._is_padding_exact and len(sequences[end].group.prompt) != length:
                    break
                end += 1
            yield sequences[start:end]
            start = end

    def _draw_batch(self, sequences: Sequence[Running], request: DrawingRequest) -> Iterator[Finished]:
        batch = PaddedBatch(self._padded, sequences, request.settings, request.stop_ids, request.watch)
        while batch.is_running:
            self._check_unchanged()
            with drawing_mode(self._model):
                finished = batch.run_to_next_end()
            self._versions = _read_versions(self._model)  # some models scale their own weights while they run
            yield from finished

    def _check_unchanged(self) -> None:
        if _read_versions(self._model) != self._versions:
            raise SamplerError(
                f"the model's weights have changed since policy {self.policy_hash} was published",
                expected="the weights that completions are named after",
                cure="publish the policy after each change of its weights, before drawing from it",
                place="publish",
            )


def _read_versions(model: Any) -> int:
    """Return a number that grows whenever a weight is changed in place."""
    return sum(weight._version for weight in model.parameters() if not weight.is_inference())
