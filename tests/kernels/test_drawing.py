"""Tokens are drawn exactly as often as they should be, by themselves, and never where they have no probability."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy import stats
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from posttrain.core.errors import SamplerError
from posttrain.core.sampling import SamplingSettings
from posttrain.kernels.drawing import check_drawn, compute_uniforms, draw_tokens, pack_allowed
from tests.kernels.draws import SETTINGS, Case, exact_logprobs, make_case, name_of_settings

every_setting = pytest.mark.parametrize("values", SETTINGS, ids=name_of_settings)
NEXT_TO_ONE = 1 - 2.0**-53


def uniforms_of(count: int, seed: int = 0) -> torch.Tensor:
    return compute_uniforms(torch.full((count,), seed), torch.arange(count))


def grid(count: int) -> torch.Tensor:
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


def plain(temperature: float = 1.0, **values: Any) -> SamplingSettings:
    return SamplingSettings(max_new_tokens=1, temperature=temperature, **values)


@every_setting
def test_an_even_grid_of_uniform_numbers_hits_every_token_as_often_as_it_is_probable(values: dict[str, Any]) -> None:
    """n uniform numbers at equal distances hit an interval of length p between n p - 1 and n p + 1 times."""
    case, count = make_case(values), 20_000
    for row, expected in enumerate(exact_logprobs(case).exp()):
        drawn = case.expand(row, count).draw(grid(count))
        found = torch.bincount(drawn.ids_B, minlength=len(expected))
        assert found[expected == 0].sum() == 0
        assert float((found - expected * count).abs().max()) <= 1.01


@every_setting
def test_tokens_are_drawn_as_often_as_they_are_probable(values: dict[str, Any]) -> None:
    """Chi square over cells that expect at least 10, the rest in one cell, at 1 in 1,000."""
    case, count = make_case(values, B=1, V=150, seed=5, scale=1.0), 20_000
    expected = exact_logprobs(case)[0].exp() * count
    assert (expected > 0).sum() > 4
    drawn = case.expand(0, count).draw(uniforms_of(count, seed=3))
    found = torch.bincount(drawn.ids_B, minlength=150).double()
    is_large = expected >= 10
    cells = [torch.cat([x[is_large], x[~is_large].sum()[None]]) for x in (found, expected)]
    found, expected = (x[cells[1] > 0] for x in cells)
    statistic = float(((found - expected) ** 2 / expected).sum())
    assert statistic < stats.chi2.ppf(0.999, len(expected) - 1)


@every_setting
def test_log_probs_are_the_exact_ones(values: dict[str, Any]) -> None:
    case, count = make_case(values, seed=1), 400
    drawing, full = exact_logprobs(case), case.logits.double().log_softmax(-1)
    for row in range(len(case.logits)):
        drawn = case.expand(row, count).draw(uniforms_of(count))
        check_drawn(drawn)
        torch.testing.assert_close(drawn.logprobs_B.double(), full[row, drawn.ids_B], atol=1e-6, rtol=0)
        torch.testing.assert_close(drawn.drawing_logprobs_B.double(), drawing[row, drawn.ids_B], atol=1e-6, rtol=0)


def transformers_scores(case: Case) -> torch.Tensor:
    """What is left of the logits after transformers' own processors."""
    settings, B = case.settings, len(case.logits)
    ids = [seen.nonzero()[:, 0] for seen in case.seen]
    scores = case.logits.clone()
    if settings.repetition_penalty:
        processor = RepetitionPenaltyLogitsProcessor(settings.repetition_penalty)
        scores = torch.cat([processor(ids[row][None], scores[row : row + 1]) for row in range(B)])
    if case.allowed is not None:
        scores = scores.masked_fill(~case.allowed, -math.inf)
    warpers = [TemperatureLogitsWarper(settings.temperature)]
    warpers += [TopKLogitsWarper(settings.top_k)] if settings.top_k else []
    warpers += [TopPLogitsWarper(settings.top_p)] if settings.top_p else []
    warpers += [MinPLogitsWarper(settings.min_p)] if settings.min_p else []
    for warper in warpers:
        scores = warper(None, scores)
    return scores


@every_setting
def test_the_same_tokens_survive_with_the_same_shares_as_in_transformers(values: dict[str, Any]) -> None:
    case, count = make_case(values, V=200, seed=2), 20_000
    expected = transformers_scores(case).log_softmax(-1)
    for row in range(len(case.logits)):
        drawn = case.expand(row, count).draw(grid(count))
        found = torch.bincount(drawn.ids_B, minlength=200)
        share = expected[row].exp()
        assert found[share == 0].sum() == 0
        assert found[share * count > 1.1].min() > 0
        torch.testing.assert_close(drawn.drawing_logprobs_B, expected[row, drawn.ids_B], atol=3e-6, rtol=0)


@every_setting
def test_as_many_of_equal_logits_survive_as_in_transformers(values: dict[str, Any]) -> None:
    """Logits are rounded to halves. Which of equals survive top-p, transformers leaves to an unstable sort."""
    case, count = make_case(values, V=200, seed=2), 20_000
    case.logits = (case.logits * 2).round() / 2
    expected = transformers_scores(case).softmax(-1)
    for row, exact in enumerate(exact_logprobs(case).exp()):
        drawn = case.expand(row, count).draw(grid(count))
        found = torch.bincount(drawn.ids_B, minlength=200)
        assert float((found - exact * count).abs().max()) <= 1.01
        torch.testing.assert_close(exact.sort().values.float(), expected[row].sort().values, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("V", [40, 128, 1000, 5000])
@pytest.mark.parametrize("values", [{}, *SETTINGS], ids=name_of_settings)
def test_a_row_draws_the_same_bit_for_bit_whatever_rows_are_beside_it(
    values: dict[str, Any], V: int, dtype: torch.dtype
) -> None:
    case = make_case({"top_logprobs": 4, **values}, B=70, V=V, dtype=dtype, scale=4.0)
    uniforms = uniforms_of(70)
    together = case.draw(uniforms)
    order = torch.randperm(70, generator=torch.Generator().manual_seed(1))[:33]
    for rows in (slice(3, 4), slice(11, 16), order):
        some = case.draw(uniforms[rows], rows)
        for name in ("ids_B", "logprobs_B", "drawing_logprobs_B", "top_ids_BK", "top_logprobs_BK"):
            assert torch.equal(getattr(some, name), getattr(together, name)[rows])


def test_drawing_inverts_the_distribution_function_worked_by_hand() -> None:
    """Probabilities 0.2, 0.5, 0.3 cumulate to 0.2, 0.7, 1.0."""
    logits = torch.log(torch.tensor([[0.2, 0.5, 0.3]])).expand(5, 3)
    drawn = draw_tokens(logits, plain(), torch.tensor([0.0, 0.19, 0.21, 0.69, 0.999999]).double())
    assert drawn.ids_B.tolist() == [0, 0, 1, 1, 2]
    torch.testing.assert_close(drawn.logprobs_B.exp(), torch.tensor([0.2, 0.2, 0.5, 0.5, 0.3]))
    assert torch.equal(drawn.logprobs_B, drawn.drawing_logprobs_B)


def test_temperature_divides_the_logits_worked_by_hand() -> None:
    """Probabilities 0.25 and 0.75 at temperature 0.5 are 0.1 and 0.9."""
    logits = torch.tensor([[0.0, math.log(3)]]).expand(2, 2)
    drawn = draw_tokens(logits, plain(0.5), torch.tensor([0.09, 0.11]).double())
    assert drawn.ids_B.tolist() == [0, 1]
    torch.testing.assert_close(drawn.logprobs_B.exp(), torch.tensor([0.25, 0.75]))
    torch.testing.assert_close(drawn.drawing_logprobs_B.exp(), torch.tensor([0.1, 0.9]))


def test_top_p_worked_by_hand_keeps_the_fewest_that_reach_it_and_of_equals_the_lowest_ids() -> None:
    """Of 0.1, 0.5, 0.1, 0.1, 0.2 the fewest that reach 0.75 are 0.5, 0.2 and one 0.1: the first one."""
    logits = torch.log(torch.tensor([[0.1, 0.5, 0.1, 0.1, 0.2]])).expand(1000, 5)
    drawn = draw_tokens(logits, plain(top_p=0.75), grid(1000))
    assert torch.bincount(drawn.ids_B, minlength=5).tolist() == [125, 625, 0, 0, 250]


@pytest.mark.parametrize("values", SETTINGS[:9], ids=name_of_settings)
@pytest.mark.parametrize("V", [5, 127, 129, 256, 700])
def test_a_token_of_no_probability_is_never_drawn_also_at_the_edges(values: dict[str, Any], V: int) -> None:
    """Leading, trailing and whole blocks of tokens are impossible; uniform numbers reach 0 and the next to 1."""
    possible = [token for token in (1, 2, 3, V // 2, V - 2) if 0 < token < V - 1]
    logits = torch.full((1, V), -math.inf)
    logits[0, possible] = torch.linspace(-1, 2, len(possible))
    case = make_case(values, B=1, V=V)
    case.logits = logits
    edges = torch.tensor([0.0, 2.0**-53, 2.0**-20, 0.25, 0.5, 0.75, 1 - 2.0**-20, NEXT_TO_ONE], dtype=torch.float64)
    uniforms = torch.cat([edges, uniforms_of(500)])
    drawn = case.expand(0, len(uniforms)).draw(uniforms)
    check_drawn(drawn)
    assert set(drawn.ids_B.tolist()) <= set(possible)
    assert bool((drawn.drawing_logprobs_B > -20).all())


def test_the_ends_of_the_uniform_numbers_draw_the_first_and_the_last_possible_token() -> None:
    logits = torch.zeros(2, 1000)
    logits[:, :200] = -math.inf
    logits[:, 900:] = -math.inf
    drawn = draw_tokens(logits, plain(), torch.tensor([0.0, NEXT_TO_ONE], dtype=torch.float64))
    assert drawn.ids_B.tolist() == [200, 899]


def test_what_is_far_below_the_largest_is_never_drawn() -> None:
    """e^-90 of the largest weight counts as nothing, at uniform number 0 too."""
    logits = torch.tensor([[-90.0, 0.0, -90.0], [-1e4, 0.0, -3e38]])
    for uniform in (0.0, NEXT_TO_ONE):
        drawn = draw_tokens(logits, plain(), torch.full((2,), uniform, dtype=torch.float64))
        assert drawn.ids_B.tolist() == [1, 1]


def test_equal_logits_are_drawn_evenly_and_equal_share_is_cut_by_top_p() -> None:
    logits = torch.full((4000, 8), 3.25)
    assert torch.bincount(draw_tokens(logits, plain(), grid(4000)).ids_B).tolist() == [500] * 8
    half = torch.bincount(draw_tokens(logits, plain(top_p=0.5), grid(4000)).ids_B, minlength=8).tolist()
    assert half == [1000, 1000, 1000, 1000, 0, 0, 0, 0]
    assert torch.bincount(draw_tokens(logits, plain(top_k=3), grid(4000)).ids_B).tolist() == [500] * 8


def test_a_single_token_left_is_always_drawn() -> None:
    logits, uniforms = torch.randn(300, 50, generator=torch.Generator().manual_seed(1)), uniforms_of(300)
    best = logits.argmax(-1)
    for values in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 0.999999}):
        drawn = draw_tokens(logits, plain(**values), uniforms)
        assert torch.equal(drawn.ids_B, best)
        assert float(drawn.drawing_logprobs_B.abs().max()) == 0.0
    only = torch.zeros(300, 50, dtype=torch.bool)
    only[:, 17] = True
    for settings in (plain(), plain(0.0), plain(top_p=0.5)):
        drawn = draw_tokens(logits, settings, uniforms, allowed_BW=pack_allowed(only))
        assert drawn.ids_B.tolist() == [17] * 300
        assert float(drawn.drawing_logprobs_B.abs().max()) == 0.0


def test_a_vocabulary_of_one_token_has_one_draw() -> None:
    drawn = draw_tokens(torch.tensor([[2.5]]), plain(), torch.tensor([0.5]).double())
    assert (drawn.ids_B.tolist(), drawn.logprobs_B.tolist()) == ([0], [0.0])


@pytest.mark.parametrize("size", [1e4, 1e30, 3e38])
def test_huge_logits_are_drawn_like_others(size: float) -> None:
    logits = torch.tensor([[-size, size, size, 0.0]]).expand(1000, 4)
    for values in ({}, {"top_p": 0.9}, {"min_p": 0.5}, {"top_k": 2}):
        drawn = draw_tokens(logits, plain(**values), grid(1000))
        check_drawn(drawn)
        assert torch.bincount(drawn.ids_B, minlength=4).tolist() == [0, 500, 500, 0]
        torch.testing.assert_close(drawn.logprobs_B.exp(), torch.full((1000,), 0.5))


@pytest.mark.parametrize("temperature", [1e-40, 1e-6, 1e6, 1e300])
def test_extreme_temperatures_end_in_the_greedy_and_the_even_draw(temperature: float) -> None:
    logits = torch.tensor([[0.5, 2.0, 2.0, -1.0]]).expand(1000, 4)
    found = torch.bincount(draw_tokens(logits, plain(temperature), grid(1000)).ids_B, minlength=4).tolist()
    assert found == ([0, 500, 500, 0] if temperature < 1 else [250] * 4)


def test_a_wide_nucleus_is_found_beyond_the_candidates() -> None:
    """Nearly even logits: 0.95 of 6,000 tokens is more than any list of candidates holds."""
    case = make_case({"temperature": 1.0, "top_p": 0.95}, B=3, V=6000, scale=0.3)
    exact = exact_logprobs(case)
    for row in range(3):
        drawn = case.expand(row, 500).draw(grid(500))
        torch.testing.assert_close(drawn.drawing_logprobs_B.double(), exact[row, drawn.ids_B], atol=1e-6, rtol=0)


def test_greedy_takes_the_lowest_id_of_equals_and_says_so_of_both_distributions() -> None:
    logits = torch.randn(40, 700, generator=torch.Generator().manual_seed(0)).mul(2).round()
    assert (logits == logits.amax(1, keepdim=True)).sum() > 40
    drawn = draw_tokens(logits, plain(0.0), None)
    first = (logits == logits.amax(1, keepdim=True)).int().argmax(1)
    assert torch.equal(drawn.ids_B, first)
    full = logits.double().log_softmax(-1).gather(1, first[:, None])[:, 0]
    torch.testing.assert_close(drawn.logprobs_B.double(), full, atol=1e-6, rtol=0)
    assert drawn.drawing_logprobs_B.tolist() == [0.0] * 40


def test_greedy_honours_penalty_and_mask() -> None:
    case = make_case({"repetition_penalty": 3.0, "allowed": True})
    scores = torch.where(case.seen, torch.where(case.logits > 0, case.logits / 3, case.logits * 3), case.logits)
    assert case.allowed is not None
    expected = scores.masked_fill(~case.allowed, -math.inf).argmax(-1)
    drawn = case.draw(None)
    assert torch.equal(drawn.ids_B, expected) and not torch.equal(expected, case.logits.argmax(-1))
    full = case.logits.double().log_softmax(-1).gather(1, expected[:, None])[:, 0]
    torch.testing.assert_close(drawn.logprobs_B.double(), full, atol=1e-6, rtol=0)


@pytest.mark.parametrize("V", [20, 129, 3000])
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_the_most_probable_tokens_are_those_of_a_full_sort_with_the_lowest_id_of_equals_first(
    V: int, temperature: float
) -> None:
    logits = torch.randn(6, V, generator=torch.Generator().manual_seed(V)).bfloat16()
    drawn = draw_tokens(logits, plain(temperature, top_logprobs=24), uniforms_of(6))
    exact = logits.double().log_softmax(-1).sort(stable=True, descending=True)
    assert drawn.top_ids_BK is not None and drawn.top_logprobs_BK is not None
    assert torch.equal(drawn.top_ids_BK, exact.indices[:, :24])
    torch.testing.assert_close(drawn.top_logprobs_BK.double(), exact.values[:, :24], atol=1e-6, rtol=0)


@pytest.mark.parametrize("values", [{}, *SETTINGS], ids=name_of_settings)
@pytest.mark.parametrize("bad", [math.nan, math.inf, "all -inf"])
def test_logits_that_are_no_distribution_are_reported_with_their_row(values: dict[str, Any], bad: Any) -> None:
    case = make_case(values)
    if bad == "all -inf":
        case.logits[3] = -math.inf
    else:
        case.logits[3, 130] = bad
    drawn = case.draw(uniforms_of(5))
    assert drawn.logprobs_B.isnan().tolist() == [False, False, False, True, False]
    assert bool(((drawn.ids_B >= 0) & (drawn.ids_B < 300)).all())
    with pytest.raises(SamplerError, match=r"row 3: logits of 1 of 5 rows are no distribution"):
        check_drawn(drawn)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_in_which_nothing_is_allowed_is_an_error(temperature: float) -> None:
    allowed = torch.ones(3, 50, dtype=torch.bool)
    allowed[1] = False
    drawn = draw_tokens(torch.zeros(3, 50), plain(temperature), uniforms_of(3), allowed_BW=pack_allowed(allowed))
    assert drawn.drawing_logprobs_B.isnan().tolist() == [False, True, False]
    with pytest.raises(SamplerError, match=r"row 1: no token of positive probability is allowed in 1 of 3 rows"):
        check_drawn(drawn)


def test_what_the_settings_need_must_be_given_and_fit() -> None:
    logits, uniforms = torch.zeros(2, 50), torch.zeros(2, dtype=torch.float64)
    with pytest.raises(ValueError, match="needs uniforms_B in float64"):
        draw_tokens(logits, plain(), None)
    with pytest.raises(ValueError, match="needs uniforms_B in float64"):
        draw_tokens(logits, plain(), uniforms.float())
    with pytest.raises(ValueError, match="needs seen_BV"):
        draw_tokens(logits, plain(repetition_penalty=1.5), uniforms)
    with pytest.raises(ValueError, match=r"allowed_BW is torch.int32 of shape \(2, 1\)"):
        draw_tokens(logits, plain(), uniforms, allowed_BW=torch.zeros(2, 1, dtype=torch.int32))


def test_logits_are_left_as_they_were() -> None:
    for values in SETTINGS:
        case = make_case(values)
        before = case.logits.clone()
        case.draw(uniforms_of(5))
        assert torch.equal(case.logits, before)


@pytest.mark.parametrize("V", [1, 31, 32, 33, 100])
def test_a_packed_mask_holds_token_t_in_bit_t_modulo_32_of_word_t_over_32(V: int) -> None:
    allowed = torch.rand(4, V, generator=torch.Generator().manual_seed(V)) < 0.5
    packed = pack_allowed(allowed)
    assert (packed.dtype, packed.shape) == (torch.int32, (4, -(-V // 32)))
    found = [[bool(word >> bit & 1) for word in row for bit in range(32)][:V] for row in packed.tolist()]
    assert found == allowed.tolist()


@every_setting
def test_no_rows_draw_no_tokens(values: dict[str, Any]) -> None:
    drawn = make_case({"top_logprobs": 2, **values}, B=0).draw(torch.zeros(0, dtype=torch.float64))
    check_drawn(drawn)
    assert drawn.ids_B.tolist() == [] and drawn.top_ids_BK is not None and drawn.top_ids_BK.shape == (0, 2)
