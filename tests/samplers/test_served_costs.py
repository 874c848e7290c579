"""What is counted, what it costs, and a budget that is never exceeded."""

import threading

import pytest

from posttrain.core.errors import SamplerError
from posttrain.core.sampling import SamplingSettings
from posttrain.samplers.served import ServedSampler
from posttrain.samplers.served_answers import TokenCounts
from posttrain.samplers.served_costs import Costs
from posttrain.samplers.served_requests import ServedRequest
from posttrain.samplers.served_settings import Prices
from tests.samplers.endpoint import Endpoint, build_problems

SETTINGS = SamplingSettings(max_new_tokens=8)
REQUEST = ServedRequest("/chat/completions", b"x" * 100, "key", max_new_tokens=50)
PRICES = {"prompt_per_million": 2.0, "completion_per_million": 10.0}


def test_costs_worked_by_hand():
    """10 prompt tokens at 2 and 5 completion tokens at 10 a million are 70 millionths, 4 answers 280."""
    with Endpoint() as endpoint:
        sampler = ServedSampler(endpoint.settings(prices=PRICES))
        assert len(list(sampler.sample(build_problems(4), SETTINGS, range(4)))) == 4
    usage = sampler.usage
    assert (usage.num_answers, usage.prompt_tokens, usage.completion_tokens) == (4, 40, 20)
    assert usage.cost == pytest.approx(280e-6) and usage.lost_cost == 0
    assert usage.fingerprints == {"fp_1"}


def test_stored_answers_are_free_and_counted_apart(tmp_path):
    with Endpoint() as endpoint:
        served = endpoint.settings(prices=PRICES, cache=str(tmp_path))
        for problems in (build_problems(3), build_problems(4)):
            sampler = ServedSampler(served)
            list(sampler.sample(problems, SETTINGS, range(len(problems))))
            sampler.close()
    usage = sampler.usage
    assert (usage.num_answers, usage.num_cached) == (1, 3)
    assert (usage.prompt_tokens, usage.completion_tokens) == (10, 5)
    assert (usage.cached_prompt_tokens, usage.cached_completion_tokens) == (30, 15)
    assert usage.cost == pytest.approx(70e-6)


def test_without_prices_tokens_are_counted_and_costs_are_unknown():
    costs = Costs(None)
    costs.settle(costs.reserve(REQUEST, is_retry=False), TokenCounts(3, 4), "")
    assert (costs.usage.prompt_tokens, costs.usage.completion_tokens) == (3, 4)
    assert costs.usage.cost is None and costs.usage.lost_cost is None and not costs.usage.fingerprints


def test_an_answer_that_does_not_say_its_tokens_costs_the_most_it_can():
    """100 bytes at 2 and 50 tokens at 10 a million are 700 millionths."""
    costs = Costs(Prices(**PRICES))
    costs.settle(costs.reserve(REQUEST, is_retry=True), None, "")
    assert costs.usage.cost == pytest.approx(700e-6)
    assert (costs.usage.num_uncounted, costs.usage.num_retries) == (1, 1)


def test_an_attempt_that_may_have_been_charged_counts_with_the_most_it_can_cost():
    costs = Costs(Prices(**PRICES))
    for is_charged in (True, False, True):
        reservation = costs.reserve(REQUEST, is_retry=False)
        reservation.is_charged = is_charged
        costs.end(reservation)
    assert costs.usage.num_lost == 2 and costs.usage.cost == 0
    assert costs.usage.lost_cost == pytest.approx(1400e-6)


def test_a_budget_waits_for_what_is_in_flight_and_refuses_only_when_that_is_spent():
    """The most that one attempt can cost is 700 millionths: two fit in 1500, and a third when they cost little."""
    costs = Costs(Prices(**PRICES, budget=1500e-6))
    first, second = (costs.reserve(REQUEST, is_retry=False) for _ in range(2))
    assert costs.reserve(REQUEST, is_retry=False) is None
    costs.settle(first, TokenCounts(10, 5), "")
    third = costs.reserve(REQUEST, is_retry=False)
    assert third is not None
    for reservation in (second, third):
        costs.settle(reservation, None, "")
    with pytest.raises(
        SamplerError, match=r"0.00147 of the budget of 0.0015 is spent; the next request may cost 0.0007"
    ):
        costs.reserve(REQUEST, is_retry=False)
    assert costs.usage.cost == pytest.approx(1470e-6)


def test_a_run_stops_before_its_budget_is_exceeded_with_everything_paid_handed_over(tmp_path):
    """An answer costs 70 millionths; with a budget of 3000 some 40 fit, less the most that the next could cost."""
    with Endpoint() as endpoint:
        prices = {**PRICES, "budget": 3000e-6}
        sampler = ServedSampler(endpoint.settings(prices=prices, cache=str(tmp_path)))
        found = []
        with pytest.raises(SamplerError, match=r"of the budget of 0\.003 is spent") as caught:
            found.extend(sampler.sample(build_problems(60), SETTINGS, range(60)))
        assert caught.value.place == "prices.budget" and "raise prices.budget" in caught.value.cure
        assert 0 < len(found) == len(endpoint.calls) == sampler.usage.num_answers
        assert 2000e-6 < sampler.usage.cost <= 3000e-6
        more = ServedSampler(endpoint.settings(prices={**PRICES, "budget": 1.0}, cache=str(tmp_path)))
        assert len(list(more.sample(build_problems(60), SETTINGS, range(60)))) == 60
        assert len(endpoint.calls) == 60


def test_a_budget_that_no_request_fits_in_is_refused_before_the_first():
    with Endpoint() as endpoint:
        sampler = ServedSampler(endpoint.settings(prices={**PRICES, "budget": 1e-6}))
        with pytest.raises(SamplerError, match="0 of the budget of 1e-06 is spent"):
            list(sampler.sample(build_problems(1), SETTINGS, [0]))
        assert endpoint.calls == []


def test_attempts_that_a_time_out_cut_off_count_against_the_budget():
    with Endpoint(lambda call: endpoint.released.wait()) as endpoint:
        prices = {"prompt_per_million": 0.0, "completion_per_million": 1e6, "budget": 20.0}  # 8 an attempt
        sampler = ServedSampler(endpoint.settings(prices=prices, limits={"read_timeout_seconds": 0.5}))
        with pytest.raises(SamplerError, match="16 of the budget of 20 is spent, 16 of it perhaps"):
            list(sampler.sample(build_problems(1), SETTINGS, [0]))
        assert len(endpoint.calls) == 2
    assert (sampler.usage.num_lost, sampler.usage.lost_cost, sampler.usage.cost) == (2, 16.0, 0.0)


def test_many_threads_never_exceed_the_budget_together():
    costs = Costs(Prices(prompt_per_million=0.0, completion_per_million=1e6, budget=500.0))  # 50 an attempt

    def spend():
        for _ in range(40):
            try:
                reservation = costs.reserve(REQUEST, is_retry=False)
            except SamplerError:
                return
            if reservation is not None:
                costs.settle(reservation, TokenCounts(0, 30), "")

    threads = [threading.Thread(target=spend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert costs.usage.cost == costs.usage.num_answers * 30
    assert 450 < costs.usage.cost <= 500
