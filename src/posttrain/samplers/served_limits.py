"""How fast requests follow one another: the user's own limits, and what the endpoint asks for.

All of it is arithmetic over a clock that the caller reads; nothing here waits.
"""

from __future__ import annotations

import email.utils
import re
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from posttrain.core.seeds import derive_seed
from posttrain.samplers.served_settings import RequestLimits

WINDOW_SECONDS = 60.0
_PARTS = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(slots=True)
class Admission:
    """A request that was let through, at its time and with its tokens; `correct` tells how many they were."""

    time: float
    tokens: int


class RateLimits:
    """Lets requests through so that no 60 seconds see more of them, or of their tokens, than allowed.

    Used from several threads. Times are seconds of one monotonic clock.
    """

    def __init__(self, limits: RequestLimits) -> None:
        self._requests = limits.requests_per_minute
        self._tokens = limits.tokens_per_minute
        self._admitted: deque[Admission] = deque()
        self._paused_until = 0.0
        self._lock = threading.Lock()

    def admit(self, tokens: int, now: float) -> Admission | float:
        """Return the admission of a request of so many tokens, or the seconds to wait before asking again.

        A request of more tokens than a whole minute allows is let through when nothing else is counted.
        """
        with self._lock:
            if now < self._paused_until:
                return self._paused_until - now
            while self._admitted and self._admitted[0].time <= now - WINDOW_SECONDS:
                self._admitted.popleft()
            is_full = self._requests is not None and len(self._admitted) >= self._requests
            if self._tokens is not None and self._admitted:
                is_full |= sum(admission.tokens for admission in self._admitted) + tokens > self._tokens
            if is_full:
                return self._admitted[0].time + WINDOW_SECONDS - now
            admission = Admission(now, tokens)
            if self._requests is not None or self._tokens is not None:
                self._admitted.append(admission)
            return admission

    def correct(self, admission: Admission, tokens: int) -> None:
        """Count an admitted request with the tokens that it turned out to have."""
        with self._lock:
            admission.tokens = tokens

    def pause(self, until: float) -> None:
        """Let no request through before a time."""
        with self._lock:
            self._paused_until = max(self._paused_until, until)


def read_pause_seconds(headers: Mapping[str, str], now: datetime | None = None) -> float:
    """Return how long an endpoint asks to be left alone; 0 where it does not.

    Read from `retry-after-ms` or `Retry-After` (seconds or a date), and from `x-ratelimit-reset-requests`
    and `x-ratelimit-reset-tokens` where nothing remains of that limit (`x-ratelimit-remaining-*` is 0). What
    cannot be read asks for nothing.

    Args:
        headers: The answer's, in lower case.
        now: The time that dates are counted from; None: this moment.
    """
    pauses = [0.0]
    asked = _read_number(headers.get("retry-after-ms"))
    if asked is not None:
        pauses.append(asked / 1000)
    elif "retry-after" in headers:
        asked = _read_number(headers["retry-after"])
        pauses.append(_seconds_until(headers["retry-after"], now) if asked is None else asked)
    for kind in ("requests", "tokens"):
        remaining = _read_number(headers.get(f"x-ratelimit-remaining-{kind}"))
        if remaining is not None and remaining <= 0:
            pauses.append(read_duration_seconds(headers.get(f"x-ratelimit-reset-{kind}", "")))
    return max(pauses)


def read_duration_seconds(text: str) -> float:
    """Return the seconds of a duration as endpoints write it: `1s`, `6m0s`, `1m30.5s`, `20ms`, `12`; else 0."""
    number = _read_number(text)
    if number is not None:
        return number
    parts = _PARTS.findall(text)
    is_whole = bool(parts) and "".join(amount + unit for amount, unit in parts) == text.strip()
    return sum(float(amount) * _SECONDS[unit] for amount, unit in parts) if is_whole else 0.0


def _read_number(text: str | None) -> float | None:
    return float(text) if text is not None and re.fullmatch(r"\s*\d{1,15}(\.\d{1,9})?\s*", text) else None


def _seconds_until(date: str, now: datetime | None) -> float:
    try:
        moment = email.utils.parsedate_to_datetime(date)
    except ValueError:
        return 0.0
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - (now or datetime.now(UTC))).total_seconds())


def compute_backoff_seconds(limits: RequestLimits, key: str, attempt: int) -> float:
    """Return the wait after a failed attempt: doubled each time up to a cap, times a share of 50 to 100 %.

    The share comes from the request's key and the attempt, so that requests that failed together do not
    come back together, and the same request always waits the same time.

    Args:
        limits: `backoff_seconds` and `max_backoff_seconds`.
        key: The request's.
        attempt: How many attempts have failed, >= 1.
    """
    wait = min(limits.max_backoff_seconds, limits.backoff_seconds * 2.0 ** min(attempt - 1, 60))
    return wait * (0.5 + 0.5 * derive_seed("served", "backoff", key, attempt) / 2**63)
