"""One call of `sample` at an endpoint: which samples are looked up, asked for, stored and handed over.

So many workers run at the same time as requests may be in flight. The first failure ends the call, but no
worker is cut off by it: what is in flight has been paid for, so it is awaited, stored and handed over first.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine, Iterable, Iterator
from dataclasses import dataclass

import httpx2

from posttrain.core.errors import StorageError
from posttrain.core.records import Completion, Problem
from posttrain.core.sampling import SamplingSettings
from posttrain.samplers.served_answers import Answer, UnusableAnswerError, read_answer, read_json
from posttrain.samplers.served_cache import AnswerCache
from posttrain.samplers.served_client import EndpointClient, Reply
from posttrain.samplers.served_requests import RequestWriter, ServedRequest
from posttrain.samplers.served_settings import ServedSettings
from posttrain.samplers.served_stream import Emit

_CLAIM_POLL_SECONDS = 0.05

Found = tuple[int, Completion]


@dataclass(frozen=True, slots=True)
class WantedSample:
    """One completion to be drawn: of which problem (by its index too), which of its samples, with which seed."""

    index: int
    problem: Problem
    sample_index: int
    seed: int


class ServedDrawing:
    """Draws samples with several workers; `produce` is run once.

    Args:
        served: The endpoint.
        settings: What is drawn with.
        client: Asks the endpoint.
        cache: Of answers; None: nothing is looked up or stored.
        writer: Writes requests.
        policy_hash: Named by the completions.
        samples: What to draw.
    """

    def __init__(
        self,
        served: ServedSettings,
        settings: SamplingSettings,
        client: EndpointClient,
        cache: AnswerCache | None,
        writer: RequestWriter,
        policy_hash: str,
        samples: Iterable[WantedSample],
    ) -> None:
        self._served = served
        self._settings = settings
        self._client = client
        self._cache = cache
        self._writer = writer
        self._policy_hash = policy_hash
        self._samples: Iterator[WantedSample] = iter(samples)
        self._asked_elsewhere: deque[WantedSample] = deque()
        self._failure: BaseException | None = None

    async def produce(self, emit: Emit[Found]) -> None:
        """Hand over every sample as it is found or answered.

        Raises:
            SamplerError: The endpoint failed, or the budget is spent.
            DataError: A problem cannot be written as a request.
            StorageError: An answer could not be stored.
        """
        async with self._client.connect() as connection:
            workers = [self._work(connection, emit) for _ in range(self._served.limits.max_in_flight)]
            await asyncio.gather(*workers, return_exceptions=True)
        if self._failure is not None:
            raise self._failure

    async def _work(self, connection: httpx2.AsyncClient, emit: Emit[Found]) -> None:
        try:
            while self._failure is None and (sample := self._take()) is not None:
                if not await self._draw(sample, connection, emit):
                    self._asked_elsewhere.append(sample)
                    await asyncio.sleep(_CLAIM_POLL_SECONDS)
        except BaseException as error:
            self._failure = self._failure or error
            raise

    def _take(self) -> WantedSample | None:
        sample = next(self._samples, None)
        return self._asked_elsewhere.popleft() if sample is None and self._asked_elsewhere else sample

    async def _draw(self, sample: WantedSample, connection: httpx2.AsyncClient, emit: Emit[Found]) -> bool:
        """Hand a sample over; false where somebody else is asking for it at this moment."""
        request = self._writer.write(sample.problem, sample.seed, sample.sample_index)
        answer = self._find_stored(request)
        if answer is None:
            if self._cache is not None and not self._cache.claim(request.key):
                return False
            try:
                # Whoever held the claim before may have stored it between the look and the claim.
                answer = self._find_stored(request)
                if answer is None:
                    return await self._ask(sample, request, connection, emit)
            finally:
                if self._cache is not None:
                    self._cache.release(request.key)
        await emit(self._complete(sample, answer))
        return True

    def _complete(self, sample: WantedSample, answer: Answer) -> Found:
        completion = answer.complete(sample.problem.problem_id, sample.sample_index, self._policy_hash, sample.seed)
        return sample.index, completion

    def _find_stored(self, request: ServedRequest) -> Answer | None:
        value = None if self._cache is None else self._cache.read(request.key)
        if value is None:
            return None
        try:
            answer = read_answer(value, self._served, self._settings)
        except UnusableAnswerError:
            return None
        self._client.costs.count_cached(answer.counts)
        return answer

    async def _ask(
        self, sample: WantedSample, request: ServedRequest, connection: httpx2.AsyncClient, emit: Emit[Found]
    ) -> bool:
        """Ask the endpoint, store the answer and hand it over."""
        reply = await self._client.ask(connection, request, lambda: self._failure is not None)
        answer, value = self._read(request, reply)
        if self._cache is not None:
            try:
                await _finish(asyncio.to_thread(self._cache.write, request.key, value))
            except StorageError:
                await emit(self._complete(sample, answer))  # it is paid for
                raise
        await emit(self._complete(sample, answer))
        return True

    def _read(self, request: ServedRequest, reply: Reply) -> tuple[Answer, object]:
        """Return a reply as an answer, and as the value to store."""
        try:
            value = self._client.redact_value(read_json(reply.body))
            answer = read_answer(value, self._served, self._settings)
            self._client.settle(reply, answer.counts, answer.fingerprint)
        except UnusableAnswerError as error:
            said = self._client.redact(reply.body.decode("utf-8", "replace"))
            cure = "check base_url (it usually ends in /v1), kind, route, length_field and logprobs"
            raise self._client.fail(request, f"an answer that cannot be used: {error}; it says: {said}", cure) from None
        finally:
            self._client.costs.end(reply.reservation)
        return answer, value


async def _finish(work: Coroutine[None, None, None]) -> None:
    """Await work to its end even if this task is cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise
