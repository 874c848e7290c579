"""Rates, pauses and waits: arithmetic over a clock that the test holds."""

import random
from datetime import UTC, datetime

import pytest

from posttrain.samplers.served_limits import (
    Admission,
    RateLimits,
    compute_backoff_seconds,
    read_duration_seconds,
    read_pause_seconds,
)
from posttrain.samplers.served_settings import RequestLimits


def simulate(limits, sizes, corrections=None):
    """Let requests through one after the other, waiting as told; return their times."""
    rates, now, times = RateLimits(limits), 1000.0, []
    for number, size in enumerate(sizes):
        while isinstance(turn := rates.admit(size, now), float):
            assert turn > 0
            now += turn
        times.append(now)
        if corrections is not None:
            rates.correct(turn, corrections[number])
    return times


def most_in_a_minute(times, sizes):
    """The largest sum of sizes in any 60 seconds."""
    return max(sum(s for t, s in zip(times, sizes, strict=True) if start <= t < start + 60) for start in times)


def test_no_minute_has_more_requests_than_allowed_and_none_waits_without_need():
    times = simulate(RequestLimits(requests_per_minute=3), [1] * 8)
    assert times == [1000.0] * 3 + [1060.0] * 3 + [1120.0] * 2


def test_no_minute_has_more_tokens_than_allowed():
    sizes = [random.Random(0).randint(1, 400) for _ in range(200)]
    times = simulate(RequestLimits(tokens_per_minute=1000), sizes)
    assert most_in_a_minute(times, sizes) <= 1000


def test_tokens_count_as_they_turned_out():
    times = simulate(RequestLimits(tokens_per_minute=100), [60] * 4, corrections=[10] * 4)
    assert times == [1000.0] * 4


def test_a_request_larger_than_a_minute_goes_alone():
    assert simulate(RequestLimits(tokens_per_minute=100), [500, 500, 1]) == [1000.0, 1060.0, 1120.0]


def test_without_limits_nothing_waits_and_nothing_is_kept():
    rates = RateLimits(RequestLimits())
    assert all(isinstance(rates.admit(10**9, 5.0), Admission) for _ in range(1000))
    assert not rates._admitted


def test_a_pause_holds_for_everyone_and_the_longest_counts():
    rates = RateLimits(RequestLimits())
    rates.pause(20.0)
    rates.pause(15.0)
    assert rates.admit(1, 12.0) == 8.0
    assert isinstance(rates.admit(1, 20.0), Admission)


NOW = datetime(2026, 5, 4, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, 0),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "Mon, 04 May 2026 12:01:30 GMT"}, 90),
        ({"retry-after": "Mon, 04 May 2026 11:00:00 GMT"}, 0),
        ({"retry-after": "soon"}, 0),
        ({"retry-after": "-5"}, 0),
        ({"retry-after": "nan"}, 0),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}, 360),
        ({"x-ratelimit-remaining-requests": "5", "x-ratelimit-reset-requests": "6m0s"}, 0),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "20ms"}, 0.02),
        ({"x-ratelimit-remaining-tokens": "0"}, 0),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1s", "retry-after": "3"}, 3),
    ],
)
def test_what_an_endpoint_asks_for_is_read_from_its_headers(headers, expected):
    assert read_pause_seconds(headers, NOW) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("12", 12), ("1.5", 1.5), ("1s", 1), ("1m30.5s", 90.5), ("1h2m", 3720), ("1d", 86400), ("1s?", 0), ("", 0)],
)
def test_durations_are_read_as_endpoints_write_them(text, expected):
    assert read_duration_seconds(text) == pytest.approx(expected)


def test_waits_double_up_to_a_cap_within_half_of_themselves():
    limits = RequestLimits(backoff_seconds=1.0, max_backoff_seconds=10.0)
    for attempt, full in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 10), (500, 10)]:
        waits = [compute_backoff_seconds(limits, f"key {number}", attempt) for number in range(200)]
        assert full / 2 <= min(waits) and max(waits) <= full
        assert max(waits) - min(waits) > full * 0.4  # those that failed together come back apart


def test_the_same_request_always_waits_the_same_time():
    limits = RequestLimits(backoff_seconds=1.0)
    assert compute_backoff_seconds(limits, "a", 1) == compute_backoff_seconds(limits, "a", 1)
    assert compute_backoff_seconds(limits, "a", 1) != compute_backoff_seconds(limits, "b", 1)
