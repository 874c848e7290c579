"""Any OpenAI-compatible endpoint as a sampler: text in, text out.

Example, with an endpoint on this machine:

    from posttrain.core.records import Problem
    from posttrain.core.sampling import SamplingSettings
    from posttrain.samplers.served import ServedSampler
    from posttrain.samplers.served_settings import ServedSettings

    served = ServedSettings(base_url="http://127.0.0.1:8000/v1", model="small", kind="vllm", cache="answers")
    problem = Problem("sum", [{"role": "user", "content": "What is 2 + 2?"}])
    sampler = ServedSampler(served)
    for index, completion in sampler.sample([problem], SamplingSettings(max_new_tokens=16), seeds=[17]):
        print(index, completion.text, completion.finish_reason)
    print(sampler.usage)
    sampler.close()

What holds: an answer that was stored is never asked for again, in this process or another that shares the
folder. A process that is killed loses the answers in flight, at most `max_in_flight` of them; those are asked
for again, and the endpoint may have charged them.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.core.errors import RecipeError, SamplerError
from posttrain.core.hashing import hash_json
from posttrain.core.records import Completion, Problem
from posttrain.core.sampling import PolicyVersion, SamplingSettings, derive_sample_seed
from posttrain.samplers.served_answers import UnusableAnswerError, read_json
from posttrain.samplers.served_cache import AnswerCache
from posttrain.samplers.served_client import EndpointClient, EndpointError
from posttrain.samplers.served_costs import Costs, ServedUsage
from posttrain.samplers.served_drawing import Found, ServedDrawing, WantedSample
from posttrain.samplers.served_limits import RateLimits
from posttrain.samplers.served_requests import PromptText, RequestWriter, ServedRequest, check_settings
from posttrain.samplers.served_settings import ServedSettings, read_key
from posttrain.samplers.served_stream import Emit, StreamThread

_UNTAKEN_A_WORKER = 4
_WITHOUT_MODELS = (403, 404, 405, 501)
_IDENTITY_FIELDS = ("id", "root", "parent", "owned_by", "max_model_len")


class ServedSampler:
    """Draws completions from an endpoint (`core.sampling.Sampler`).

    `policy_hash` names the endpoint's address, the model's name and what `/models` reports of it. It is
    what the endpoint claims: one that changes the weights behind a name says so nowhere.

    Args:
        served: Address, model, limits and prices.
        render_prompt: Renders a problem to text; needed by the route `completions` alone.
        environment: Where the key's variable is looked up; None: this process's.

    Raises:
        RecipeError: No key in the variable, or no `render_prompt` where one is needed.
        SamplerError: The endpoint is out of reach, or refuses the key.
        StorageError: The cache's folder cannot be written.
    """

    def __init__(
        self,
        served: ServedSettings,
        *,
        render_prompt: PromptText | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        if served.route == "completions" and render_prompt is None:
            raise RecipeError(
                "route completions without a way to render prompts",
                expected="render_prompt, which turns a problem into the text of its prompt",
                cure="give render_prompt, or use route: chat, where the endpoint renders messages itself",
                place="route",
            )
        secret = read_key(served, os.environ if environment is None else environment)
        self._served = served
        self._render_prompt = render_prompt
        self._costs = Costs(served.prices)
        self._client = EndpointClient(served, secret, RateLimits(served.limits), self._costs)
        self._threads: weakref.WeakSet[StreamThread[Found]] = weakref.WeakSet()
        self._is_closed = False
        self.policy_hash = self._identify()
        self._cache = AnswerCache(Path(served.cache)) if served.cache is not None else None

    @property
    def usage(self) -> ServedUsage:
        """What this sampler has asked for and paid so far."""
        return self._costs.usage

    @property
    def num_torn(self) -> int:
        """Stored answers that were torn or changed, and so asked for again."""
        return 0 if self._cache is None else self._cache.num_torn

    def sample(
        self, problems: Sequence[Problem], settings: SamplingSettings, seeds: Sequence[int]
    ) -> Iterator[tuple[int, Completion]]:
        """Yield (index of the problem, completion) as answers come; closing the iterator cancels the rest.

        Requests begin with the first completion that is asked for, and run on in a thread of their own until
        the iterator is exhausted or closed. Ids are unknown, so `prompt_ids` and `ids` are empty; log-probs
        are one for each token that the endpoint returns, as it computes them; `seed` is the sample's.

        Args:
            problems: What to answer.
            settings: Those that the endpoint cannot honour are refused, before any request.
            seeds: One for each problem; an endpoint is sent the last 31 bits of a sample's.

        Raises:
            RecipeError: A setting that the endpoint cannot honour, as soon as this is called.
            SamplerError: The endpoint failed or the budget is spent; completions of requests in flight come first.
            DataError: A problem that has no form which the endpoint takes.
            StorageError: An answer could not be stored.
        """
        if len(seeds) != len(problems):
            raise ValueError(f"{len(seeds)} seeds for {len(problems)} problems")
        if self._is_closed:
            raise SamplerError("the sampler is closed", cure="make another", place=self._served.base_url)
        check_settings(self._served, settings)
        writer = RequestWriter(self._served, settings, self._render_prompt, self.policy_hash)
        wanted = (
            WantedSample(index, problems[index], number, derive_sample_seed(seeds[index], number))
            for index in range(len(problems))
            for number in range(settings.num_samples)
        )
        drawing = ServedDrawing(
            self._served, settings, self._client, self._cache, writer, self.policy_hash, samples=wanted
        )
        thread = StreamThread(drawing.produce, _UNTAKEN_A_WORKER * self._served.limits.max_in_flight)
        self._threads.add(thread)
        return thread.iterate()

    def publish(self, policy: PolicyVersion) -> str:
        """Refuse: nothing can be published to an endpoint.

        Raises:
            SamplerError: Always.
        """
        raise SamplerError(
            f"policy {policy.hash} cannot be published: the weights of an endpoint are not changed from here",
            expected="a sampler that holds the policy itself, where a policy is being trained",
            cure="draw with a local or vLLM sampler, or serve the new weights and make a sampler for them",
            place=self._served.base_url,
        )

    def close(self) -> None:
        """Cancel what is in flight and let go of the cache; again does nothing."""
        self._is_closed = True
        for thread in list(self._threads):
            thread.stop()
        if self._cache is not None:
            self._cache.close()

    def _identify(self) -> str:
        """Return the hash of the endpoint's address, the model's name and what the endpoint says of the model."""

        async def produce(emit: Emit[dict[str, Any]]) -> None:
            async with self._client.connect() as connection:
                request = ServedRequest("/models")
                try:
                    reply = await self._client.ask(connection, request)
                except EndpointError as error:
                    if error.status not in _WITHOUT_MODELS:
                        raise
                    await emit({})
                    return
                self._costs.end(reply.reservation)
                try:
                    await emit(_find_model(self._client.redact_value(read_json(reply.body)), self._served.model))
                except UnusableAnswerError as error:
                    cure = "check base_url (it usually ends in /v1)"
                    raise self._client.fail(request, f"a list of models that is {error}", cure) from None

        (reported,) = StreamThread(produce, 1).iterate()
        return hash_json({"endpoint": self._served.base_url, "model": self._served.model, "reported": reported})


def _find_model(value: Any, name: str) -> dict[str, Any]:
    """Return what a list of models says of one; nothing where it is not listed."""
    models = value.get("data") if isinstance(value, dict) else None
    listed = [model for model in (models if isinstance(models, list) else []) if isinstance(model, dict)]
    found = next((model for model in listed if model.get("id") == name), {})
    return {field: found[field] for field in _IDENTITY_FIELDS if field in found}
