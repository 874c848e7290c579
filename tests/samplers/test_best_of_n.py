"""Best-of-n over a sampler that draws texts by their chances: what is chosen, what is recorded, what is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest

from posttrain.core.errors import RecipeError, SamplerError
from posttrain.core.records import Completion, Group, Outcome, Problem, Rollout, Selection
from posttrain.core.sampling import PolicyVersion, SamplingSettings, derive_sample_seed
from posttrain.core.seeds import build_numpy_generator
from posttrain.rollouts.origin import read_sampler_logprobs
from posttrain.samplers.best_of_n import BestOfNSampler, choose_place
from posttrain.statistics.best_of_n import compute_best_of_n
from tests.samplers.generating import PROMPTS, build_sampler, make_sharp_model

TEXTS, CHANCES = ["a", "b", "c", "d"], [0.4, 0.3, 0.2, 0.1]
SETTINGS = SamplingSettings(max_new_tokens=4, temperature=1.0)
PROBLEMS = [Problem(str(place), [{"role": "user", "content": "?"}]) for place in range(3)]


class ChanceSampler:
    """Draws one of `TEXTS` by its chance, problems from the last to the first and samples mixed."""

    policy_hash = "policy"
    is_closed = False

    def __init__(self) -> None:
        self.num_drawn = 0

    def sample(
        self, problems: Sequence[Problem], settings: SamplingSettings, seeds: Sequence[int]
    ) -> Iterator[tuple[int, Completion]]:
        order = [(index, sample) for sample in range(settings.num_samples) for index in range(len(problems))]
        for index, sample in reversed(order):
            self.num_drawn += 1
            seed = derive_sample_seed(seeds[index], sample)
            text = TEXTS[int(build_numpy_generator(seed).choice(4, p=CHANCES))]
            ids, logprobs = np.array([ord(text)], np.int32), np.array([-1.5], np.float32)
            yield index, Completion(
                problems[index].problem_id, sample, np.array([1], np.int32), ids, text, "stop", self.policy_hash, seed,
                logprobs, logprobs,
            )  # fmt: skip

    def publish(self, policy: PolicyVersion) -> str:
        self.policy_hash = policy.hash
        return policy.hash

    def close(self) -> None:
        self.is_closed = True


class TextScorer:
    """Gives each text what a table says; None is a fault of the harness, which a second try may mend."""

    name = "text"

    def __init__(self, table: dict[str, float | None], *, mends: bool = False) -> None:
        self.table, self.mends, self.sizes = table, mends, list[int]()

    def score(self, items: Sequence[tuple[Problem, Completion]]) -> list[Outcome]:
        self.sizes.append(len(items))
        is_mended = self.mends and len(self.sizes) > 1
        return [self._judge(completion.text, is_mended) for _, completion in items]

    def _judge(self, text: str, is_mended: bool) -> Outcome:
        value = self.table[text]
        if value is None and not is_mended:
            return Outcome("errored", 0.0, fault="harness")
        return Outcome("scored", 9.0 if value is None else value, answer=text)


RANKS: dict[str, float | None] = {"a": 1.0, "b": 2.0, "c": 2.0, "d": 3.0}


def _choose(n: int, settings: SamplingSettings = SETTINGS, scorer: TextScorer | None = None, **options: str) -> dict:
    sampler = BestOfNSampler(ChanceSampler(), scorer or TextScorer(RANKS), n=n, **options)  # type: ignore[arg-type]
    return {(index, one.completion.sample_index): one for index, one in sampler.choose(PROBLEMS, settings, [7, 8, 9])}


def _outcome(value: float, answer: str | None = None, status: str = "scored", fault: str | None = None) -> Outcome:
    return Outcome(status, value, answer=answer, fault=fault)  # type: ignore[arg-type]


def test_one_of_each_problem_is_chosen_among_what_the_same_seed_draws_without_it() -> None:
    plain: dict[int, list[Completion]] = {}
    eight = SamplingSettings(max_new_tokens=4, temperature=1.0, num_samples=8)
    for index, completion in ChanceSampler().sample(PROBLEMS, eight, [7, 8, 9]):
        plain.setdefault(index, []).append(completion)
    chosen = _choose(8)
    assert set(chosen) == {(0, 0), (1, 0), (2, 0)}
    for (index, _), one in chosen.items():
        drawn = sorted(plain[index], key=lambda completion: completion.sample_index)
        assert [candidate.seed for candidate in one.candidates] == [completion.seed for completion in drawn]
        values = [RANKS[completion.text] for completion in drawn]
        first = values.index(max(values, key=lambda value: value or 0.0))
        assert one.completion.seed == drawn[first].seed
        assert one.selection == Selection("score", tuple(values), first)


def test_several_samples_are_each_chosen_among_their_own() -> None:
    settings = SamplingSettings(max_new_tokens=4, temperature=1.0, num_samples=3)
    chosen = _choose(2, settings)
    assert set(chosen) == {(index, sample) for index in range(3) for sample in range(3)}
    for (_, sample), one in chosen.items():
        assert [candidate.sample_index for candidate in one.candidates] == [2 * sample, 2 * sample + 1]


def test_what_is_chosen_is_distributed_as_the_exact_distribution_says() -> None:
    """2,000 of the best of 3 with a tie of b and c: within 4.5 standard errors of each chance."""
    settings = SamplingSettings(max_new_tokens=4, temperature=1.0, num_samples=2000)
    sampler = BestOfNSampler(ChanceSampler(), TextScorer(RANKS), n=3)
    counts = Counter(completion.text for _, completion in sampler.sample(PROBLEMS[:1], settings, [5]))
    exact = compute_best_of_n(CHANCES, [1, 2, 2, 3], 3)
    for text, chance in zip(TEXTS, exact, strict=True):
        assert abs(counts[text] / 2000 - chance) < 4.5 * np.sqrt(chance * (1 - chance) / 2000)


def test_the_rules_by_hand() -> None:
    right, wrong, cut = _outcome(1.0, "x"), _outcome(0.0, "y"), _outcome(0.0, status="truncated", fault="policy")
    assert choose_place("score", [wrong, right, right], "abc") == 1
    assert choose_place("verifier", [wrong, _outcome(0.9), right], "abc") == 2
    assert choose_place("verifier", [wrong, _outcome(0.9)], "ab") == 0
    # x and y have two votes each, and y came first; what was cut does not vote.
    assert choose_place("majority", [cut, wrong, right, right, wrong], "abcde") == 1
    assert choose_place("majority", [cut, cut], "ab") == 0
    # Without answers texts vote, without the white space around them.
    assert choose_place("majority", [_outcome(0.0), _outcome(0.0), _outcome(0.0)], ["p", "q ", "q"]) == 1


def test_a_candidate_without_a_verdict_is_never_chosen() -> None:
    broken, worst = _outcome(0.0, fault="harness", status="errored"), _outcome(-5.0, "x")
    for by in ("score", "verifier", "majority"):
        assert choose_place(by, [broken, worst], "ab") == 1  # type: ignore[arg-type]
        assert choose_place(by, [broken, _outcome(0.0, status="not_applicable")], "ab") is None  # type: ignore[arg-type]


def test_what_the_harness_failed_on_is_scored_once_more() -> None:
    mending = TextScorer({**RANKS, "a": None}, mends=True)
    assert all(None not in one.selection.scores for one in _choose(4, scorer=mending).values())
    broken = TextScorer(dict.fromkeys(TEXTS))
    for one in _choose(4, scorer=broken).values():
        assert one.selection == Selection("score", (None,) * 4, place=None)
    assert broken.sizes == [12, 12]


def test_scorers_are_given_many_at_once_but_not_all() -> None:
    scorer = TextScorer(RANKS)
    settings = SamplingSettings(max_new_tokens=4, temperature=1.0, num_samples=40)
    _choose(4, settings, scorer)
    assert set(scorer.sizes[:-1]) == {64}
    assert sum(scorer.sizes) == 3 * 40 * 4


def test_log_probs_are_the_policys_and_whoever_needs_those_of_the_draw_is_refused() -> None:
    one = _choose(2)[0, 0].completion
    assert one.sampler_logprobs is not None
    assert one.drawing_logprobs is None
    rollout = Rollout("0", 0, (one,), _outcome(1.0))
    with pytest.raises(SamplerError, match="says nothing of the log-probs"):
        read_sampler_logprobs(Group(PROBLEMS[0], (rollout,)).rollouts[0])


def test_what_is_not_asked_for_any_more_is_not_drawn() -> None:
    inner = ChanceSampler()
    sampler = BestOfNSampler(inner, TextScorer(RANKS), n=64)
    drawn = sampler.sample(PROBLEMS, SETTINGS, [7, 8, 9])
    next(drawn)
    at_first = inner.num_drawn
    drawn.close()  # type: ignore[attr-defined]
    assert inner.num_drawn == at_first < 3 * 64


def test_weights_and_closing_are_the_wrapped_samplers() -> None:
    inner = ChanceSampler()
    sampler = BestOfNSampler(inner, TextScorer(RANKS), n=2)
    assert sampler.publish(PolicyVersion("next")) == sampler.policy_hash == inner.policy_hash == "next"
    sampler.close()
    assert inner.is_closed


def test_greedy_candidates_and_none_are_refused() -> None:
    greedy = SamplingSettings(max_new_tokens=4)
    with pytest.raises(RecipeError, match="best of 2 at temperature 0"):
        list(BestOfNSampler(ChanceSampler(), TextScorer(RANKS), n=2).sample(PROBLEMS, greedy, [1, 2, 3]))
    assert len(list(BestOfNSampler(ChanceSampler(), TextScorer(RANKS), n=1).sample(PROBLEMS, greedy, [1, 2, 3]))) == 3
    with pytest.raises(RecipeError, match="best of 0"):
        BestOfNSampler(ChanceSampler(), TextScorer(RANKS), n=0)


class _Longest:
    name = "longest"

    def __init__(self, measure: Callable[[Completion], float]) -> None:
        self.measure = measure

    def score(self, items: Sequence[tuple[Problem, Completion]]) -> list[Outcome]:
        return [Outcome("scored", self.measure(completion)) for _, completion in items]


def test_a_model_is_drawn_from_as_it_is_without_choosing() -> None:
    """The likeliest of four: the same tokens and log-probs as the plain sampler's, of the best sample."""
    model = make_sharp_model()
    problems = [Problem(str(place), []) for place in range(len(PROMPTS))]
    four = SamplingSettings(max_new_tokens=6, temperature=1.0, num_samples=4)
    plain: dict[int, list[Completion]] = {}
    for index, completion in build_sampler(model).sample(problems, four, range(7)):
        plain.setdefault(index, []).append(completion)
    scorer = _Longest(lambda completion: float(completion.sampler_logprobs.sum()))  # type: ignore[union-attr]
    best = BestOfNSampler(build_sampler(model), scorer, n=4)
    one = SamplingSettings(max_new_tokens=6, temperature=1.0)
    for index, completion in best.sample(problems, one, range(7)):
        likeliest = max(plain[index], key=lambda drawn: (scorer.measure(drawn), -drawn.sample_index))
        assert completion.ids.tolist() == likeliest.ids.tolist()
        assert completion.sampler_logprobs is not None
        assert completion.sampler_logprobs.tolist() == likeliest.sampler_logprobs.tolist()  # type: ignore[union-attr]
        assert completion.sample_index == 0
