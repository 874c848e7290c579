"""The sampler over a stand-in for vLLM: completions, publication, and every way in which a process can fail."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from posttrain.core.errors import DataError, RecipeError
from posttrain.core.records import Problem
from posttrain.core.sampling import PolicyVersion, SamplingSettings, TokenConstraint, derive_sample_seed
from posttrain.samplers.vllm import VllmSampler
from posttrain.samplers.vllm_process import VllmError
from tests.samplers.vllm_parts import (
    PROMPTS,
    STOP_ID,
    VOCABULARY,
    build_sampler,
    compute_logprobs,
    decode,
    draw,
    is_alive,
    pids_of,
    write_policy,
)

PAIR = [Problem("p0", []), Problem("p1", [])]


@pytest.fixture
def policy(tmp_path: Path) -> PolicyVersion:
    return PolicyVersion("first", folder=write_policy(tmp_path / "policy", 3))


@pytest.fixture
def sampler(policy: PolicyVersion) -> Iterator[VllmSampler]:
    sampler = build_sampler(policy)
    yield sampler
    sampler.close()


def test_completions_hold_exact_ids_logprobs_and_the_policys_hash(sampler: VllmSampler) -> None:
    found = draw(sampler, SamplingSettings(max_new_tokens=4, top_logprobs=2))
    assert sorted(found) == [(0, 0), (1, 0), (2, 0)]
    first = found[0, 0]
    assert (first.prompt_ids.tolist(), first.ids.tolist()) == ([5], [8, 11, 14, 17])
    assert (first.text, first.finish_reason, first.policy_hash) == (decode([8, 11, 14, 17]), "length", "first")
    assert first.sampler_logprobs.tolist() == first.drawing_logprobs.tolist() == [0.0] * 4
    assert first.top_logprobs.ids_TK.tolist() == [[8, 9], [11, 12], [14, 15], [17, 18]]
    np.testing.assert_allclose(first.top_logprobs.logprobs_TK, [[0.0, -0.1]] * 4)


def test_each_sample_draws_with_its_own_seed_again_the_same(sampler: VllmSampler) -> None:
    settings = SamplingSettings(max_new_tokens=12, temperature=1.0, num_samples=3)
    found, again = draw(sampler, settings), draw(sampler, settings)
    assert sorted(found) == [(index, number) for index in range(3) for number in range(3)]
    assert all(found[key].ids.tolist() == again[key].ids.tolist() for key in found)
    assert len({tuple(found[0, number].ids.tolist()) for number in range(3)}) == 3
    assert found[1, 2].seed == derive_sample_seed(101, 2)
    drawn = found[1, 2]
    sequence = [*PROMPTS["p1"], *drawn.ids.tolist()]
    expected = compute_logprobs(PolicyVersion("", model=3), sequence)[len(PROMPTS["p1"]) - 1 :]
    np.testing.assert_allclose(drawn.sampler_logprobs, expected, atol=1e-6)
    np.testing.assert_array_equal(drawn.drawing_logprobs, drawn.sampler_logprobs)


def test_the_log_probs_drawn_from_are_left_out_where_they_are_not_known(sampler: VllmSampler) -> None:
    for settings in (
        SamplingSettings(max_new_tokens=3, temperature=0.5),
        SamplingSettings(max_new_tokens=3, temperature=1.0, top_k=2),
    ):
        assert all(drawn.drawing_logprobs is None for drawn in draw(sampler, settings).values())


def test_a_stop_token_ends_the_ids_and_not_the_text(sampler: VllmSampler) -> None:
    drawn = draw(sampler, SamplingSettings(max_new_tokens=50, stop_ids=(14,)), ["p0"])[0, 0]
    assert (drawn.ids.tolist(), drawn.text, drawn.finish_reason) == ([8, 11, 14], decode([8, 11]), "stop")
    # From 57 the next token is the policy's own stop token.
    ended = draw(sampler, SamplingSettings(max_new_tokens=5), ["ends"])[0, 0]
    assert (ended.ids.tolist(), ended.text, ended.finish_reason) == ([STOP_ID], "", "stop")
    past = draw(sampler, SamplingSettings(max_new_tokens=2, ignore_eos=True), ["ends"])[0, 0]
    assert (past.ids.tolist(), past.finish_reason) == ([STOP_ID, (STOP_ID + 3) % VOCABULARY], "length")


@pytest.mark.parametrize("faults", [{}, {"deaf": True}])
def test_a_stop_string_ends_the_completion_also_where_vllm_misses_it(policy: PolicyVersion, faults: dict) -> None:
    sampler = build_sampler(policy, faults)
    text = decode([8, 11, 14, 17])
    drawn = draw(sampler, SamplingSettings(max_new_tokens=9, stop_strings=(text[1:3],)), ["p0"])[0, 0]
    assert (drawn.ids.tolist(), drawn.text, drawn.finish_reason) == ([8, 11, 14], text[0], "stop")
    assert len(drawn.sampler_logprobs) == 3
    sampler.close()


def test_a_stop_string_that_only_vllm_sees_is_an_error(policy: PolicyVersion) -> None:
    sampler = build_sampler(policy)
    sampler._decode = lambda ids: "?" * len(ids)
    with pytest.raises(VllmError, match="stopped at 'i'") as caught:
        draw(sampler, SamplingSettings(max_new_tokens=9, stop_strings=("i",)), ["p0"])
    assert caught.value.kind == "refused"
    sampler.close()


def test_under_a_constraint_the_full_distribution_is_scored_afterwards(sampler: VllmSampler) -> None:
    settings = SamplingSettings(
        max_new_tokens=6, temperature=1.0, top_logprobs=1, constraint=TokenConstraint("regex", "a*")
    )
    for drawn in draw(sampler, settings).values():
        sequence = [*drawn.prompt_ids.tolist(), *drawn.ids.tolist()]
        expected = compute_logprobs(PolicyVersion("", model=3), sequence)[-6:]
        np.testing.assert_allclose(drawn.sampler_logprobs, expected, atol=1e-6)
        assert drawn.drawing_logprobs.tolist() == [0.0] * 6
        assert drawn.top_logprobs.ids_TK[:, 0].tolist() == [(token + 3) % VOCABULARY for token in sequence[-7:-1]]
    assert sampler._process.num_open == 0


def test_settings_and_prompts_that_cannot_be_honoured_are_refused_before_anything_is_drawn(
    sampler: VllmSampler,
) -> None:
    problem = [Problem("p0", [])]
    for values in ({"temperature": 3.0}, {"temperature": 1.0, "top_p": 0.5, "min_p": 0.5}):
        with pytest.raises(RecipeError):
            sampler.sample(problem, SamplingSettings(max_new_tokens=4, **values), [1])
    for name in ("empty", "long"):
        with pytest.raises(DataError) as caught:
            sampler.sample([Problem(name, [])], SamplingSettings(max_new_tokens=40), [1])
        assert caught.value.place == name
    with pytest.raises(ValueError, match="2 seeds"):
        sampler.sample(problem, SamplingSettings(max_new_tokens=4), [1, 2])


def test_a_request_that_vllm_refuses_is_named_and_the_engine_goes_on(sampler: VllmSampler) -> None:
    with pytest.raises(VllmError, match="problem wrong") as caught:
        draw(sampler, SamplingSettings(max_new_tokens=4), ["p0", "wrong", "p1"])
    assert caught.value.kind == "refused"
    with pytest.raises(RecipeError, match="unclosed group") as refused:
        draw(sampler, SamplingSettings(max_new_tokens=4, constraint=TokenConstraint("regex", "(a")))
    assert refused.value.place == "constraint"
    assert len(draw(sampler, SamplingSettings(max_new_tokens=4))) == 3


def test_closing_an_iterator_cancels_what_is_left(policy: PolicyVersion, tmp_path: Path) -> None:
    log = tmp_path / "vllm.log"
    sampler = build_sampler(policy, {"step_seconds": 0.005}, log_file=log)
    draws = sampler.sample(PAIR, SamplingSettings(max_new_tokens=60, stop_ids=(8,)), [1, 2])
    assert next(draws)[0] == 0
    assert sampler._process.num_open == 1
    draws.close()
    assert sampler._process.num_open == 0
    assert len(draw(sampler, SamplingSettings(max_new_tokens=2))) == 3
    sampler.close()
    assert log.read_text().count("aborted") == 1


def test_two_threads_get_their_own_completions(sampler: VllmSampler) -> None:
    found = {}

    def run(name: str) -> None:
        found[name] = draw(sampler, SamplingSettings(max_new_tokens=30), [name] * 20)

    threads = [threading.Thread(target=run, args=(name,)) for name in ("p0", "p1", "p2")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, completions in found.items():
        assert len(completions) == 20
        last = PROMPTS[name][-1]
        assert all(drawn.ids[0] == (last + 3) % VOCABULARY for drawn in completions.values())


def test_a_live_policy_and_a_folder_are_published_and_completions_carry_the_hash(
    sampler: VllmSampler, tmp_path: Path
) -> None:
    settings = SamplingSettings(max_new_tokens=2)
    assert sampler.publish(PolicyVersion("second", model=5)) == "second"
    drawn = draw(sampler, settings)[0, 0]
    assert (drawn.ids.tolist(), drawn.policy_hash) == ([10, 15], "second")
    assert list(sampler._process.scratch.rglob("*.safetensors")) == []
    sampler.publish(PolicyVersion("third", folder=write_policy(tmp_path / "third", 7)))
    drawn = draw(sampler, settings)[0, 0]
    assert (drawn.ids.tolist(), drawn.policy_hash) == ([12, 19], "third")
    assert (tmp_path / "third" / "model.safetensors").exists()


def test_publication_is_refused_while_completions_are_drawn(policy: PolicyVersion) -> None:
    sampler = build_sampler(policy, {"step_seconds": 0.005})
    draws = sampler.sample(PAIR, SamplingSettings(max_new_tokens=50, stop_ids=(8,)), [1, 2])
    assert next(draws)[0] == 0
    with pytest.raises(VllmError, match="while 1 completions") as caught:
        sampler.publish(PolicyVersion("second", model=5))
    assert caught.value.kind == "refused"
    assert next(draws)[1].policy_hash == sampler.policy_hash == "first"
    assert list(draws) == []
    sampler.publish(PolicyVersion("second", model=5))
    sampler.close()


def test_weights_that_vllm_did_not_take_over_are_noticed_and_nothing_is_drawn_from_them(
    policy: PolicyVersion,
) -> None:
    sampler = build_sampler(policy, {"stale": True})
    with pytest.raises(VllmError, match="differ from the policy's") as caught:
        sampler.publish(PolicyVersion("second", model=5))
    assert caught.value.kind == "weights"
    with pytest.raises(VllmError, match="last publication failed"):
        draw(sampler, SamplingSettings(max_new_tokens=2))
    sampler.publish(PolicyVersion("first", folder=policy.folder))
    assert draw(sampler, SamplingSettings(max_new_tokens=2))[0, 0].policy_hash == "first"
    sampler.close()


def test_log_probs_that_do_not_move_with_the_policys_are_noticed_within_the_tolerance(policy: PolicyVersion) -> None:
    """A difference that a generous tolerance lets pass (a third of the policy's 0.2 nats) still shows as no move."""
    sampler = build_sampler(policy, {"stale": True}, probe_tolerance_nats=50.0)
    with pytest.raises(VllmError, match="are what they were"):
        sampler.publish(PolicyVersion("second", model=20))
    sampler.close()


def test_an_engine_that_starts_with_other_weights_is_refused(policy: PolicyVersion) -> None:
    with pytest.raises(VllmError, match=r"differ from the policy's by 0\.01 nats"):
        build_sampler(policy, {"off": 0.01})


def test_weights_that_cannot_be_loaded_end_the_engine(sampler: VllmSampler, tmp_path: Path) -> None:
    sampler._export = lambda policy, folder: None
    pids = pids_of(sampler)
    with pytest.raises(VllmError, match="no weights"):
        sampler.publish(PolicyVersion("second", model=5))
    assert not any(is_alive(pid) for pid in pids)


def test_a_build_that_cannot_seed_says_so_and_greedy_draws_are_as_ever(policy: PolicyVersion) -> None:
    with pytest.warns(UserWarning, match="not repeatable"):
        sampler = build_sampler(policy, {"unseeded": True})
    assert not sampler.is_repeatable
    settings = SamplingSettings(max_new_tokens=12, temperature=1.0)
    first, second = draw(sampler, settings)[0, 0], draw(sampler, settings)[0, 0]
    assert first.ids.tolist() != second.ids.tolist()
    assert first.seed == second.seed == derive_sample_seed(100, 0)
    greedy = [draw(sampler, SamplingSettings(max_new_tokens=12))[0, 0].ids.tolist() for _ in range(2)]
    assert greedy[0] == greedy[1]
    sampler.close()
