"""An endpoint as a sampler: what is drawn, in which order nothing depends, and what closing leaves behind."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from posttrain.core.errors import DataError, RecipeError, SamplerError
from posttrain.core.records import Problem
from posttrain.core.sampling import PolicyVersion, Sampler, SamplingSettings, derive_sample_seed
from posttrain.samplers import served as served_module
from posttrain.samplers.served import ServedSampler
from tests.samplers.endpoint import Call, Endpoint, build_problems

REPOSITORY = Path(__file__).resolve().parents[2]
SETTINGS = SamplingSettings(max_new_tokens=8)


def own_threads():
    return [thread for thread in threading.enumerate() if thread.name == "posttrain-served"]


def test_every_problem_is_answered_with_its_own_seed_whatever_order_answers_come_in():
    held = threading.Semaphore(0)

    def respond(call: Call) -> None:
        if call.number < 3:  # the first three are answered last
            held.acquire()
        call.answer()
        if call.number == 19:
            held.release(3)

    with Endpoint(respond) as endpoint:
        sampler: Sampler = ServedSampler(endpoint.settings())
        found = list(sampler.sample(build_problems(20), SETTINGS, range(100, 120)))
        sampler.close()
    assert sorted(index for index, _ in found) == list(range(20))
    assert [index for index, _ in found] != list(range(20))
    for index, completion in found:
        seed = derive_sample_seed(100 + index, 0)
        assert completion.text == f"echo of question {index} with {seed % 2**31}"
        assert (completion.problem_id, completion.sample_index) == (f"p{index}", 0)
        assert (completion.seed, completion.finish_reason) == (seed, "stop")
        assert completion.policy_hash == sampler.policy_hash
        assert completion.ids.size == completion.prompt_ids.size == 0
        assert completion.sampler_logprobs is None and completion.top_logprobs is None


def test_each_sample_of_a_problem_draws_with_a_seed_of_its_own():
    with Endpoint() as endpoint:
        settings = SamplingSettings(max_new_tokens=8, temperature=1.0, num_samples=3)
        found = list(ServedSampler(endpoint.settings()).sample(build_problems(2), settings, [5, 6]))
    places = {(index, completion.sample_index) for index, completion in found}
    assert places == {(index, number) for index in range(2) for number in range(3)}
    assert len({completion.text for _, completion in found}) == 6


def test_completions_come_while_other_requests_are_still_open():
    def respond(call: Call) -> None:
        if call.body["messages"][0]["content"] != "question 0":
            endpoint.released.wait()
        call.answer()

    with Endpoint(respond) as endpoint:
        stream = ServedSampler(endpoint.settings()).sample(build_problems(3), SETTINGS, range(3))
        assert next(stream)[0] == 0
        endpoint.released.set()
        assert sorted(index for index, _ in stream) == [1, 2]


def test_no_more_requests_are_in_flight_than_allowed():
    lock, present, most = threading.Lock(), 0, 0

    def respond(call: Call) -> None:
        nonlocal present, most
        with lock:
            present += 1
            most = max(most, present)
        if call.number < 3:  # until as many are here as may be
            barrier.wait()
        with lock:
            present -= 1
        call.answer()

    barrier = threading.Barrier(3)
    with Endpoint(respond) as endpoint:
        sampler = ServedSampler(endpoint.settings(limits={"max_in_flight": 3}))
        assert len(list(sampler.sample(build_problems(30), SETTINGS, range(30)))) == 30
    assert most == 3


def test_closing_the_iterator_cancels_what_is_in_flight_and_leaves_no_thread():
    def respond(call: Call) -> None:
        if call.number > 0:
            endpoint.released.wait()
        call.answer()

    with Endpoint(respond) as endpoint:
        sampler = ServedSampler(endpoint.settings(limits={"max_in_flight": 4}))
        stream = sampler.sample(build_problems(50), SETTINGS, range(50))
        next(stream)
        assert len(own_threads()) == 1
        stream.close()
        assert own_threads() == []
        assert len(endpoint.calls) <= 5
        endpoint.released.set()
        assert len(list(sampler.sample(build_problems(2), SETTINGS, [0, 1]))) == 2  # it can be used again
        assert own_threads() == []


def test_an_iterator_that_nobody_takes_from_asks_for_no_more_than_fits():
    with Endpoint() as endpoint:
        sampler = ServedSampler(endpoint.settings(limits={"max_in_flight": 2}))
        untouched = sampler.sample(build_problems(5), SETTINGS, range(5))
        assert endpoint.calls == []
        stream = sampler.sample(build_problems(300), SETTINGS, range(300))
        taken = [next(stream) for _ in range(3)]
        stream.close()
        assert len(taken) == 3
        assert len(endpoint.calls) <= 3 + 2 * 4 + 2
        assert len(list(untouched)) == 5


def test_an_iterator_that_is_dropped_leaves_no_thread():
    with Endpoint() as endpoint:
        stream = ServedSampler(endpoint.settings()).sample(build_problems(40), SETTINGS, range(40))
        next(stream)
        del stream
        assert own_threads() == []


PROGRAM = """
import builtins, sys
from posttrain.core.sampling import SamplingSettings
from posttrain.samplers.served import ServedSampler
from posttrain.samplers.served_settings import ServedSettings
from tests.samplers.endpoint import build_problems

sampler = ServedSampler(ServedSettings(base_url=sys.argv[1], model="tiny"))
builtins.kept = sampler.sample(build_problems(9), SamplingSettings(max_new_tokens=8), range(9))
next(builtins.kept)
sys.exit(3)
"""


def test_a_program_that_ends_with_an_iterator_open_ends():
    """What is kept in `builtins` is let go of so late that threads stand still by then."""
    with Endpoint(lambda call: call.answer() if call.number == 0 else call.hang()) as endpoint:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY)])}
        command = [sys.executable, "-c", PROGRAM, endpoint.url]
        assert subprocess.run(command, env=environment, timeout=120, check=False).returncode == 3


def test_closing_the_sampler_ends_its_iterators_with_an_error_and_is_allowed_twice():
    def respond(call: Call) -> None:
        if call.number > 0:
            endpoint.released.wait()
        call.answer()

    with Endpoint(respond) as endpoint:
        sampler = ServedSampler(endpoint.settings())
        stream = sampler.sample(build_problems(9), SETTINGS, range(9))
        next(stream)
        sampler.close()
        sampler.close()
        assert own_threads() == []
        with pytest.raises(SamplerError, match="closed while it drew"):
            list(stream)
        with pytest.raises(SamplerError, match="closed"):
            sampler.sample(build_problems(1), SETTINGS, [0])


def test_the_policy_hash_names_address_model_and_what_the_endpoint_says_of_it():
    models = {"data": [{"id": "other", "root": "x"}, {"id": "tiny", "root": "/weights/1", "created": 1}]}
    with Endpoint(models=models) as endpoint, Endpoint(models=models) as elsewhere:
        first = ServedSampler(endpoint.settings()).policy_hash
        models["data"][1]["created"] = 2  # vLLM says the present time
        assert ServedSampler(endpoint.settings()).policy_hash == first
        assert ServedSampler(endpoint.settings(limits={"max_in_flight": 2})).policy_hash == first
        assert ServedSampler(endpoint.settings(model="other")).policy_hash != first
        assert ServedSampler(elsewhere.settings()).policy_hash != first
        models["data"][1]["root"] = "/weights/2"
        assert ServedSampler(endpoint.settings()).policy_hash != first


@pytest.mark.parametrize("status", [403, 404, 405])
def test_an_endpoint_without_a_list_of_models_is_named_by_address_and_model(status, monkeypatch):
    with Endpoint() as endpoint:
        listed = ServedSampler(endpoint.settings(model="unlisted")).policy_hash
        reply = Call.reply
        monkeypatch.setattr(Call, "reply", lambda call, value: reply(call, {"error": "no"}, status))
        assert ServedSampler(endpoint.settings(model="unlisted")).policy_hash == listed


def test_publishing_is_refused_with_the_cure():
    with Endpoint() as endpoint:
        sampler = ServedSampler(endpoint.settings())
        with pytest.raises(SamplerError, match=r"(?s)policy abc cannot be published.*cure: draw with a local"):
            sampler.publish(PolicyVersion("abc"))


def test_rendered_prompts_are_sent_to_the_other_route():
    def respond(call: Call) -> None:
        text = f"after {call.body['prompt']}"
        call.reply({"choices": [{"text": text, "finish_reason": "length"}], "usage": None})

    with Endpoint(respond) as endpoint:
        served = endpoint.settings(route="completions")
        with pytest.raises(RecipeError, match="render_prompt"):
            ServedSampler(served)
        sampler = ServedSampler(served, render_prompt=lambda problem: f"<{problem.problem_id}>")
        ((_, completion),) = sampler.sample(build_problems(1), SETTINGS, [0])
    assert (completion.text, completion.finish_reason) == ("after <p0>", "length")
    assert endpoint.calls[0].path == "/v1/completions"
    assert sampler.usage.num_uncounted == 1


def test_settings_are_refused_before_any_request():
    with Endpoint() as endpoint:
        sampler = ServedSampler(endpoint.settings())
        with pytest.raises(RecipeError, match="E-RECIPE at top_k: top_k is 5"):
            sampler.sample(build_problems(1), SamplingSettings(max_new_tokens=8, temperature=1.0, top_k=5), [0])
        with pytest.raises(ValueError, match="1 seeds for 2 problems"):
            sampler.sample(build_problems(2), SETTINGS, [0])
        assert endpoint.calls == []


def test_a_problem_that_cannot_be_sent_is_an_error_that_names_it_after_the_others_are_handed_over():
    problems = [*build_problems(2), Problem("bad", [{"role": "user", "content": {1, 2}}])]
    with Endpoint() as endpoint:
        stream = ServedSampler(endpoint.settings()).sample(problems, SETTINGS, range(3))
        found = []
        with pytest.raises(DataError, match="E-DATA at bad: messages or tools that are no JSON"):
            found.extend(index for index, _ in stream)
    assert sorted(found) == [0, 1]


def test_the_example_of_the_docstring_runs(tmp_path, monkeypatch, capsys):
    lines = (served_module.__doc__ or "").splitlines()
    code = "\n".join(line[4:] for line in lines if line.startswith("    "))
    monkeypatch.chdir(tmp_path)
    with Endpoint(lambda call: call.answer("4"), models={"data": [{"id": "small"}]}) as endpoint:
        exec(compile(code.replace("http://127.0.0.1:8000/v1", endpoint.url), "example", "exec"), {})
    assert capsys.readouterr().out.startswith("0 4 stop\nServedUsage(num_answers=1, num_cached=0")
    assert (tmp_path / "answers").is_dir()
