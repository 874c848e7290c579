"""One request to an endpoint until it is answered: attempts, pauses, time-outs, and errors that say what to do.

Answers are read up to a stated size, redirects are not followed (the key belongs to this address alone), and
nothing compressed is asked for or unpacked.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2

from posttrain.core.errors import SamplerError
from posttrain.core.hashing import canonical_json
from posttrain.samplers.served_answers import TokenCounts
from posttrain.samplers.served_costs import Costs, Reservation
from posttrain.samplers.served_limits import (
    WINDOW_SECONDS,
    Admission,
    RateLimits,
    compute_backoff_seconds,
    read_pause_seconds,
)
from posttrain.samplers.served_requests import ServedRequest
from posttrain.samplers.served_settings import Secret, ServedSettings, is_loopback

_BUDGET_POLL_SECONDS = 0.02
_REST_SECONDS = 0.2
_BYTES_A_TOKEN = 3
_SHOWN_CHARACTERS = 300
_NOT_WORTH_RETRYING = {501, 505}
_RAISE_DEADLINE = "raise limits.deadline_seconds, or start the same command again later: stored answers are kept"
_CURES = {
    400: "change what the endpoint objects to; settings that it lacks can be left out, other fields set in extra_body",
    401: "check the key in the environment variable that api_key_env names, or name one",
    403: "check that the key may use this model, and that the endpoint serves your region",
    404: "check base_url (it usually ends in /v1) and model",
    413: "shorten the prompts",
    422: "change what the endpoint objects to; settings that it lacks can be left out, other fields set in extra_body",
}


class EndpointError(SamplerError):
    """What an endpoint, or the way to it, did wrong; `status` is that of its answer, 0 without one."""

    def __init__(self, found: str, *, cure: str, place: str, status: int = 0) -> None:
        self.status = status
        super().__init__(found, expected="an answer of an OpenAI-compatible endpoint", cure=cure, place=place)


class _FailedAttemptError(Exception):
    """An attempt that another may follow; its text says what happened, `pause_seconds` what the endpoint asks."""

    def __init__(self, found: str, pause_seconds: float = 0.0) -> None:
        super().__init__(found)
        self.pause_seconds = pause_seconds


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer with status 2xx, and what was set aside for it: to be settled, or ended, by who asked."""

    body: bytes
    reservation: Reservation
    admission: Admission


@dataclass(frozen=True, slots=True)
class _Response:
    status: int
    headers: Mapping[str, str]
    body: bytes


class EndpointClient:
    """Asks one endpoint; its limits and costs are shared by all requests.

    Args:
        served: The endpoint.
        secret: Its key.
        limits: Lets requests through.
        costs: Sets money aside.
    """

    def __init__(self, served: ServedSettings, secret: Secret | None, limits: RateLimits, costs: Costs) -> None:
        self.costs = costs
        self._served = served
        self._secret = secret
        self._rates = limits
        # Proxies and certificates of the environment are for the way to other machines.
        self._uses_environment = not is_loopback(httpx2.URL(served.base_url).host)
        self._tls = httpx2.create_ssl_context(trust_env=self._uses_environment)

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[httpx2.AsyncClient]:
        """Hold connections in the running event loop."""
        limits = self._served.limits
        headers = {"accept": "application/json", "accept-encoding": "identity", "content-type": "application/json"}
        if self._secret is not None:
            headers["authorization"] = f"Bearer {self._secret.reveal()}"
        client = httpx2.AsyncClient(
            headers=headers,
            timeout=httpx2.Timeout(
                connect=limits.connect_timeout_seconds,
                read=limits.read_timeout_seconds,
                write=limits.read_timeout_seconds,
                pool=None,
            ),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=limits.max_in_flight),
            follow_redirects=False,
            verify=self._tls,
            trust_env=self._uses_environment,
        )
        with self._redact_logs():
            async with client:
                yield client

    @contextmanager
    def _redact_logs(self) -> Iterator[None]:
        """Blot out the key in what the HTTP library logs of answers' headers, where an endpoint may send it back."""

        def blot_out(record: logging.LogRecord) -> bool:
            record.msg = record.msg if self._secret is None else self._secret.redact(str(record.msg))
            return True

        loggers = [logging.getLogger(f"httpcore2.{name}") for name in ("http11", "http2", "proxy")]
        for logger in loggers:
            logger.addFilter(blot_out)
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeFilter(blot_out)

    def redact(self, text: str) -> str:
        """Return a text of the endpoint as one short line without the key and control characters."""
        text = text if self._secret is None else self._secret.redact(text)
        line = re.sub(r"[\s\x00-\x1f\x7f-\x9f]+", " ", text).strip()
        return line if len(line) <= _SHOWN_CHARACTERS else line[: _SHOWN_CHARACTERS - 3] + "..."

    async def ask(
        self, client: httpx2.AsyncClient, request: ServedRequest, should_give_up: Callable[[], bool] = lambda: False
    ) -> Reply:
        """Return the endpoint's answer, after as many attempts as the limits allow.

        Args:
            client: From `connect`.
            request: What to ask.
            should_give_up: Whether no further attempt is wanted.

        Raises:
            SamplerError: The endpoint refuses, is out of reach, or the budget does not allow the request.
        """
        limits = self._served.limits
        started = 0.0
        for attempt in range(1, limits.max_attempts + 1):
            reservation = await self._reserve(request, should_give_up, is_retry=attempt > 1)
            is_handed_over = False
            try:
                admission = await self._wait_for_turn(request, should_give_up)
                started = started or time.monotonic()
                seconds_left = started + limits.deadline_seconds - time.monotonic()
                reply = Reply(await self._try(client, request, reservation, seconds_left), reservation, admission)
                is_handed_over = True
                return reply
            except _FailedAttemptError as error:
                failure = error
            finally:
                if not is_handed_over:
                    self.costs.end(reservation)
            wait = max(failure.pause_seconds, compute_backoff_seconds(limits, request.key, attempt))
            if time.monotonic() + wait > started + limits.deadline_seconds:
                raise self.fail(request, f"{failure}; the next attempt would come after the deadline", _RAISE_DEADLINE)
            if attempt == limits.max_attempts:
                break
            if failure.pause_seconds:
                self._rates.pause(time.monotonic() + failure.pause_seconds)
            await self._rest(wait, request, should_give_up)
        cure = (
            "see that the endpoint runs and can be reached, then start the same command again: stored answers are kept"
        )
        raise self.fail(request, f"{failure}; {attempt} attempt(s) made", cure)

    async def _reserve(
        self, request: ServedRequest, should_give_up: Callable[[], bool], *, is_retry: bool
    ) -> Reservation:
        while (reservation := self.costs.reserve(request, is_retry=is_retry)) is None:
            await self._rest(_BUDGET_POLL_SECONDS, request, should_give_up)
        return reservation

    async def _rest(self, seconds: float, request: ServedRequest, should_give_up: Callable[[], bool]) -> None:
        """Wait, but not on when nobody wants the answer any more."""
        end = time.monotonic() + seconds
        while not should_give_up():
            if (left := end - time.monotonic()) <= 0:
                return
            await asyncio.sleep(min(left, _REST_SECONDS))
        raise self.fail(request, "given up while it waited, because another request had failed", "see the other error")

    async def _wait_for_turn(self, request: ServedRequest, should_give_up: Callable[[], bool]) -> Admission:
        tokens = request.max_prompt_tokens // _BYTES_A_TOKEN + request.max_new_tokens
        while isinstance(turn := self._rates.admit(tokens, time.monotonic()), float):
            if turn > max(self._served.limits.deadline_seconds, WINDOW_SECONDS):
                raise self.fail(request, f"the endpoint asks to be left alone for {turn:.0f} s", _RAISE_DEADLINE)
            await self._rest(turn, request, should_give_up)
        return turn

    async def _try(
        self, client: httpx2.AsyncClient, request: ServedRequest, reservation: Reservation, seconds_left: float
    ) -> bytes:
        """Return the body of an answer with status 2xx.

        Raises:
            _FailedAttemptError: Another attempt may succeed.
            SamplerError: None will.
        """
        reservation.is_charged = request.content is not None  # until it is known that it was not
        try:
            async with asyncio.timeout(seconds_left):
                response = await self._exchange(client, request)
        except TimeoutError:
            found = f"no whole answer within the deadline of {self._served.limits.deadline_seconds:g} s"
            raise self.fail(request, found, _RAISE_DEADLINE) from None
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            reservation.is_charged = False
            raise _FailedAttemptError(f"no connection ({self._describe(error)})") from None
        except httpx2.TransportError as error:
            raise _FailedAttemptError(f"no whole answer ({self._describe(error)})") from None
        pause = read_pause_seconds(response.headers)
        if response.status // 100 == 2:
            if pause:
                self._rates.pause(time.monotonic() + pause)
            return response.body
        reservation.is_charged = False
        self._check_status(request, response, pause)
        raise _FailedAttemptError(f"status {response.status}{self._quote(response.body)}", pause)

    async def _exchange(self, client: httpx2.AsyncClient, request: ServedRequest) -> _Response:
        method = "GET" if request.content is None else "POST"
        most = self._served.limits.max_answer_bytes
        async with client.stream(method, self._url(request), content=request.content) as response:
            body = bytearray()
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > most:
                    raise self.fail(
                        request,
                        f"an answer of more than {most} bytes, of which no more was read",
                        "check base_url, or raise limits.max_answer_bytes",
                    )
            encoding = response.headers.get("content-encoding", "identity")
            if encoding != "identity":
                raise self.fail(request, f"an answer in the encoding {self.redact(encoding)}, which was not asked for")
            return _Response(response.status_code, {k.lower(): v for k, v in response.headers.items()}, bytes(body))

    def _check_status(self, request: ServedRequest, response: _Response, pause: float) -> None:
        """Raise what no further attempt can mend."""
        status, quote = response.status, self._quote(response.body)
        if 300 <= status < 400:
            target = self.redact(response.headers.get("location", "nowhere"))
            found = f"status {status}, a redirect to {target}, which is not followed"
            cure = "set base_url to the address that is meant, if you trust it with the key"
            raise self.fail(request, found, cure, status)
        is_passing = status in (408, 429) or (status >= 500 and status not in _NOT_WORTH_RETRYING)
        if not is_passing:
            cure = _CURES.get(status, "see what the endpoint says")
            raise self.fail(request, f"status {status}{quote}", cure, status)
        if b"insufficient_quota" in response.body:
            cure = "add credit to the account that the key belongs to"
            raise self.fail(request, f"status {status}{quote}", cure, status)

    def settle(self, reply: Reply, counts: TokenCounts | None, fingerprint: str) -> None:
        """Count what a reply cost, and its real tokens towards those of a minute."""
        self.costs.settle(reply.reservation, counts, fingerprint)
        if counts is not None:
            self._rates.correct(reply.admission, counts.prompt_tokens + counts.completion_tokens)

    def redact_value(self, value: Any) -> Any:
        """Return a JSON value without the key, which an endpoint may have sent back."""
        if self._secret is None or self._secret.is_guessable:
            return value
        text = canonical_json(value)
        clean = self._secret.redact(text)
        return value if clean == text else json.loads(clean)

    def fail(
        self, request: ServedRequest, found: str, cure: str = "check base_url, kind and route", status: int = 0
    ) -> EndpointError:
        """Return an error that names the address and, of the endpoint's own words, what `found` quotes."""
        return EndpointError(found, cure=cure, place=self._url(request), status=status)

    def _url(self, request: ServedRequest) -> str:
        return self._served.base_url + request.path

    def _describe(self, error: BaseException) -> str:
        """Return an error of the HTTP library with what the system said, which stands at the end of its causes."""
        name, cause = type(error).__name__, error
        while (deeper := cause.__cause__ or cause.__context__) is not None:
            cause = deeper
        return self.redact(f"{name}: {str(cause) or str(error)}".rstrip(": "))

    def _quote(self, body: bytes) -> str:
        text = self.redact(body.decode("utf-8", "replace"))
        return f": {text}" if text else ""
