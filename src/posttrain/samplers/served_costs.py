"""What answers of an endpoint cost, and a budget that is not exceeded.

Before each attempt the most that it can cost is set aside: every byte of the body as a prompt token, and
`max_new_tokens` completion tokens. What the answer's `usage` says takes its place. An attempt that may have
been charged though no answer came (a time-out, a broken connection) counts with that most.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace

from posttrain.core.errors import SamplerError
from posttrain.samplers.served_answers import TokenCounts
from posttrain.samplers.served_requests import ServedRequest
from posttrain.samplers.served_settings import Prices


@dataclass(frozen=True, slots=True)
class ServedUsage:
    """What a sampler has asked of its endpoint since it was made.

    Made by `Costs`, read by whoever reports a run. Cached answers were paid for at another time: they are
    counted apart and cost nothing. Costs are None where no prices are given, else in the currency of the
    prices.

    Example: two answers of 100 and 50 tokens each, and one that a cache held, at prices of 1 and 2 a
    million: `num_answers=2, prompt_tokens=200, completion_tokens=100, num_cached=1, cost=0.0004`.

    Args:
        num_answers: Answers that came from the endpoint.
        num_cached: Answers that the cache held.
        num_retries: Attempts after a first one.
        num_lost: Attempts without a usable answer that may have been charged.
        num_uncounted: Answers among `num_answers` that did not say their tokens; they cost the most they can.
        prompt_tokens: Of answers from the endpoint; likewise `completion_tokens`.
        cached_prompt_tokens: Of cached answers; likewise `cached_completion_tokens`.
        cost: Of answers from the endpoint.
        lost_cost: The most that lost attempts can have cost.
        fingerprints: What the endpoint called its configurations (`system_fingerprint`).
    """

    num_answers: int = 0
    num_cached: int = 0
    num_retries: int = 0
    num_lost: int = 0
    num_uncounted: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_prompt_tokens: int = 0
    cached_completion_tokens: int = 0
    cost: float | None = None
    lost_cost: float | None = None
    fingerprints: frozenset[str] = field(default_factory=frozenset)


@dataclass(slots=True, eq=False)
class Reservation:
    """Money set aside for one attempt; `is_charged` says whether the endpoint may have charged it."""

    most: TokenCounts
    is_charged: bool = False
    is_settled: bool = False


class Costs:
    """Adds up what is paid, and says when the budget allows no more. Used from several threads.

    Args:
        prices: Prices and budget; None: tokens alone are counted.
    """

    def __init__(self, prices: Prices | None) -> None:
        self._prices = prices
        none_yet = None if prices is None else 0.0
        self._usage = ServedUsage(cost=none_yet, lost_cost=none_yet)
        self._reserved: list[Reservation] = []
        self._lock = threading.Lock()

    @property
    def usage(self) -> ServedUsage:
        """What has been counted so far."""
        with self._lock:
            return self._usage

    def reserve(self, request: ServedRequest, *, is_retry: bool) -> Reservation | None:
        """Set aside the most that an attempt can cost; None: ask again when one of those in flight has ended.

        Raises:
            SamplerError: The budget does not allow the attempt.
        """
        reservation = Reservation(TokenCounts(request.max_prompt_tokens, request.max_new_tokens))
        budget = None if self._prices is None else self._prices.budget
        with self._lock:
            if budget is not None:
                spent = (self._usage.cost or 0.0) + (self._usage.lost_cost or 0.0)
                next_cost = self._price(reservation.most) or 0.0
                if spent + next_cost > budget:
                    raise _over_budget(budget, spent, self._usage.lost_cost or 0.0, next_cost)
                if spent + sum(self._price(other.most) or 0.0 for other in self._reserved) + next_cost > budget:
                    return None
            self._reserved.append(reservation)
            if is_retry:
                self._usage = replace(self._usage, num_retries=self._usage.num_retries + 1)
            return reservation

    def settle(self, reservation: Reservation, counts: TokenCounts | None, fingerprint: str) -> None:
        """Count an answer."""
        with self._lock:
            self._reserved.remove(reservation)
            reservation.is_settled = True
            paid, usage = counts or reservation.most, self._usage
            said = counts or TokenCounts(0, 0)
            self._usage = replace(
                usage,
                num_answers=usage.num_answers + 1,
                num_uncounted=usage.num_uncounted + (counts is None),
                prompt_tokens=usage.prompt_tokens + said.prompt_tokens,
                completion_tokens=usage.completion_tokens + said.completion_tokens,
                cost=_add(usage.cost, self._price(paid)),
                fingerprints=usage.fingerprints | ({fingerprint} if fingerprint else set()),
            )

    def end(self, reservation: Reservation) -> None:
        """Count an attempt that gave no answer; one that was settled already is left as it is."""
        with self._lock:
            if reservation.is_settled:
                return
            self._reserved.remove(reservation)
            if reservation.is_charged:
                usage = self._usage
                cost = _add(usage.lost_cost, self._price(reservation.most))
                self._usage = replace(usage, num_lost=usage.num_lost + 1, lost_cost=cost)

    def count_cached(self, counts: TokenCounts | None) -> None:
        """Count an answer that the cache held."""
        said = counts or TokenCounts(0, 0)
        with self._lock:
            usage = self._usage
            self._usage = replace(
                usage,
                num_cached=usage.num_cached + 1,
                cached_prompt_tokens=usage.cached_prompt_tokens + said.prompt_tokens,
                cached_completion_tokens=usage.cached_completion_tokens + said.completion_tokens,
            )

    def _price(self, counts: TokenCounts) -> float | None:
        if self._prices is None:
            return None
        prices = self._prices
        millionths = counts.prompt_tokens * prices.prompt_per_million
        return (millionths + counts.completion_tokens * prices.completion_per_million) / 1e6


def _add(total: float | None, more: float | None) -> float | None:
    return None if total is None or more is None else total + more


def _over_budget(budget: float, spent: float, lost: float, next_cost: float) -> SamplerError:
    uncertain = f", {lost:.6g} of it perhaps, for attempts without an answer" if lost else ""
    return SamplerError(
        f"{spent:.6g} of the budget of {budget:.6g} is spent{uncertain}; the next request may cost {next_cost:.6g}",
        expected="a request that the budget allows, at its most expensive",
        cure="raise prices.budget, lower max_new_tokens, or stop here: stored answers are not paid for again",
        place="prices.budget",
    )
