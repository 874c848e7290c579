"""Endpoints that fail: what is tried again, what is an error at once, and what is never read or followed."""

import socket
import threading

import pytest

from posttrain.core.errors import SamplerError
from posttrain.core.sampling import SamplingSettings
from posttrain.samplers.served import ServedSampler
from tests.samplers.endpoint import Call, Endpoint, build_problems, chat_answer

SETTINGS = SamplingSettings(max_new_tokens=8)
CONNECTION_ERRORS = "no whole answer|no connection"


def draw(endpoint, count=4, **changes):
    sampler = ServedSampler(endpoint.settings(**changes))
    found = sorted(sampler.sample(build_problems(count), SETTINGS, range(count)), key=lambda pair: pair[0])
    assert [index for index, _ in found] == list(range(count))
    return sampler, [completion for _, completion in found]


def draw_error(endpoint, **changes):
    with pytest.raises(SamplerError) as caught:
        draw(endpoint, 1, **changes)
    error = caught.value
    assert error.exit_code == 7 and error.found and error.cure
    assert error.place.startswith(endpoint.url)
    return error


def first_times(count, act):
    """Treat the first requests badly and answer the others."""
    return lambda call: act(call) if call.number < count else call.answer()


def half_a_body(call: Call) -> None:
    call.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b'{"choices": [')


def half_of_the_chunks(call: Call) -> None:
    call.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b'd\r\n{"choices": [\r\n')


TRIED_AGAIN = {
    "500": lambda call: call.reply({"error": "x"}, 500),
    "502 page": lambda call: call.reply(b"<html>Bad gateway</html>", 502, {"Content-Type": "text/html"}),
    "503": lambda call: call.reply(b"", 503),
    "529": lambda call: call.reply(b"", 529),
    "408": lambda call: call.reply(b"", 408),
    "429": lambda call: call.reply({"error": "slow"}, 429),
    "429 retry-after": lambda call: call.reply(b"", 429, {"Retry-After": "0.01"}),
    "429 retry-after-ms": lambda call: call.reply(b"", 429, {"Retry-After-Ms": "5"}),
    "hang": Call.hang,
    "hang up at once": lambda call: call.write(b""),
    "half a body": half_a_body,
    "half of the chunks": half_of_the_chunks,
    "no http": lambda call: call.write(b"220 smtp ready\r\n\r\n"),
}


@pytest.mark.parametrize("name", TRIED_AGAIN)
def test_what_may_pass_is_tried_again_until_it_is_answered(name):
    patience = {"read_timeout_seconds": 1.0} if name == "hang" else {}
    with Endpoint(first_times(3, TRIED_AGAIN[name])) as endpoint:
        sampler, found = draw(endpoint, limits={"max_in_flight": 2, **patience})
    assert [completion.text.split(" with")[0] for completion in found] == [f"echo of question {n}" for n in range(4)]
    assert len(endpoint.calls) == 7
    usage = sampler.usage
    assert (usage.num_answers, usage.num_retries) == (4, 3)
    assert usage.num_lost == (0 if name[:3].isdigit() else 3)


@pytest.mark.parametrize("name", TRIED_AGAIN)
def test_an_endpoint_that_never_recovers_is_an_error_that_says_what_came(name):
    patience = {"read_timeout_seconds": 0.5} if name == "hang" else {}
    with Endpoint(first_times(99, TRIED_AGAIN[name])) as endpoint:
        error = draw_error(endpoint, limits={"max_attempts": 3, **patience})
        assert len(endpoint.calls) == 3
    assert "3 attempt(s) made" in error.found
    assert f"status {name[:3]}" in error.found if name[:3].isdigit() else "no whole answer (" in error.found


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 413, 422, 501])
def test_what_will_not_pass_is_an_error_at_once_with_the_endpoints_own_words(status):
    message = {"error": {"message": "that is\n\x1b[31m wrong " + "x" * 1000}}
    with Endpoint(lambda call: call.reply(message, status)) as endpoint:
        error = draw_error(endpoint)
        assert len(endpoint.calls) == 1
    assert f"status {status}: " in error.found and "that is" in error.found
    assert len(error.found) < 400 and "\x1b" not in error.found


def test_an_account_without_credit_is_not_asked_again():
    body = {"error": {"code": "insufficient_quota", "message": "You exceeded your current quota"}}
    with Endpoint(lambda call: call.reply(body, 429)) as endpoint:
        error = draw_error(endpoint)
        assert len(endpoint.calls) == 1
    assert "add credit" in error.cure


def test_a_wait_that_is_longer_than_the_deadline_is_an_error_and_not_waited_for():
    with Endpoint(lambda call: call.reply(b"", 429, {"Retry-After": "86400"})) as endpoint:
        error = draw_error(endpoint)
        assert len(endpoint.calls) == 1
    assert "after the deadline" in error.found and "deadline_seconds" in error.cure


def test_an_exhausted_limit_in_a_good_answer_holds_back_further_requests_and_loses_nothing(tmp_path):
    headers = {"X-RateLimit-Remaining-Requests": "0", "X-RateLimit-Reset-Requests": "24h"}
    with Endpoint(lambda call: call.reply(chat_answer("paid"), headers=headers)) as endpoint:
        served = endpoint.settings(cache=str(tmp_path), limits={"max_in_flight": 1})
        found = []
        with pytest.raises(SamplerError, match=r"asks to be left alone for 86\d\d\d s"):
            found.extend(ServedSampler(served).sample(build_problems(3), SETTINGS, range(3)))
        assert len(found) == len(endpoint.calls) == 1
        endpoint.respond = lambda call: call.answer()
        assert len(list(ServedSampler(served).sample(build_problems(3), SETTINGS, range(3)))) == 3
        assert len(endpoint.calls) == 3


def test_a_limit_that_comes_back_soon_is_waited_for():
    headers = {"X-RateLimit-Remaining-Tokens": "0", "X-RateLimit-Reset-Tokens": "3ms"}
    with Endpoint(lambda call: call.reply(chat_answer("paid"), headers=headers)) as endpoint:
        draw(endpoint, 5)
        assert len(endpoint.calls) == 5


UNUSABLE = {
    "broken json": b'{"choices": [',
    "nothing": b"",
    "page": b"<html>Please sign in</html>",
    "wrong shape": b'{"result": "fine"}',
    "error with status 200": b'{"error": {"message": "upstream is down"}}',
    "list": b"[]",
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_an_answer_that_is_no_completion_is_an_error_at_once_and_is_not_stored(name, tmp_path):
    with Endpoint(lambda call: call.reply(UNUSABLE[name])) as endpoint:
        error = draw_error(endpoint, cache=str(tmp_path))
        assert len(endpoint.calls) == 1
        assert list(tmp_path.glob("*/*.json")) == []
        endpoint.respond = lambda call: call.answer()
        draw(endpoint, 1, cache=str(tmp_path))
    assert error.found.startswith("an answer that cannot be used: ")


def test_more_tokens_than_were_allowed_are_an_error_that_names_the_field():
    with Endpoint(lambda call: call.answer(usage={"prompt_tokens": 1, "completion_tokens": 900})) as endpoint:
        error = draw_error(endpoint)
    assert "900 new tokens where max_tokens was 8" in error.found and "length_field" in error.cure


@pytest.mark.parametrize("is_declared", [True, False])
def test_no_more_is_read_of_a_gigantic_answer_than_allowed(is_declared):
    written = []

    def respond(call: Call) -> None:
        length = b"Content-Length: 10000000000000\r\n" if is_declared else b""
        call.write(b"HTTP/1.1 200 OK\r\n" + length + b"Connection: close\r\n\r\n")
        for _ in range(10_000):
            call.handler.wfile.write(b"x" * 100_000)  # raises once the client has left
            written.append(100_000)

    with Endpoint(respond) as endpoint:
        error = draw_error(endpoint, limits={"max_answer_bytes": 200_000})
    assert "an answer of more than 200000 bytes" in error.found
    assert sum(written) < 100_000_000


def test_a_body_that_would_unpack_to_more_is_not_unpacked():
    with Endpoint(lambda call: call.reply(b"\x1f\x8b", headers={"Content-Encoding": "gzip"})) as endpoint:
        error = draw_error(endpoint)
    assert "in the encoding gzip" in error.found
    assert endpoint.calls[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_and_the_key_goes_nowhere_else(status, monkeypatch):
    monkeypatch.setenv("SERVED_API_KEY", "sk-0123456789abcdef")
    with Endpoint() as elsewhere:
        location = {"Location": f"{elsewhere.url}/chat/completions"}
        with Endpoint(lambda call: call.reply(b"", status, location)) as endpoint:
            error = draw_error(endpoint, api_key_env="SERVED_API_KEY")
        assert len(endpoint.calls) == 1 and elsewhere.calls == []
    assert f"a redirect to {elsewhere.url}/chat/completions, which is not followed" in error.found


def test_a_dead_endpoint_is_an_error_that_names_the_address_what_was_found_and_the_cure():
    with socket.socket() as taken:  # nobody listens here, and nobody else can
        taken.bind(("127.0.0.1", 0))
        dead = Endpoint()
        dead.__class__ = type("Dead", (Endpoint,), {"url": f"http://127.0.0.1:{taken.getsockname()[1]}/v1"})
        with pytest.raises(SamplerError) as caught:
            ServedSampler(dead.settings())
    text = str(caught.value)
    assert text.startswith(f"E-SAMPLER at {dead.url}/models: no connection (ConnectError: ")
    assert "4 attempt(s) made" in text
    assert "cure: see that the endpoint runs and can be reached" in text


def test_an_endpoint_that_dies_in_the_middle_leaves_what_was_paid_stored_and_handed_over(tmp_path):
    problems = build_problems(30)
    with Endpoint(lambda call: call.answer() if call.number < 12 else call.write(b"")) as endpoint:
        served = endpoint.settings(cache=str(tmp_path), limits={"max_in_flight": 3})
        found = []
        with pytest.raises(SamplerError, match=CONNECTION_ERRORS):
            found.extend(ServedSampler(served).sample(problems, SETTINGS, range(30)))
        assert len(found) == 12
        endpoint.respond = lambda call: call.answer()
        before = len(endpoint.calls)
        sampler = ServedSampler(served)
        assert len(list(sampler.sample(problems, SETTINGS, range(30)))) == 30
        assert len(endpoint.calls) - before == 18
        assert (sampler.usage.num_answers, sampler.usage.num_cached) == (18, 12)


def test_after_a_failure_answers_in_flight_are_still_awaited_and_handed_over():
    refused = threading.Event()

    def respond(call: Call) -> None:
        if call.body["messages"][0]["content"] == "question 0":
            arrived.acquire()  # not before the others are in flight
            call.reply({"error": "no"}, 400)
            refused.set()
        else:
            arrived.release()
            refused.wait()
            call.answer()

    arrived = threading.Semaphore(0)
    with Endpoint(respond) as endpoint:
        stream = ServedSampler(endpoint.settings(limits={"max_in_flight": 2})).sample(
            build_problems(9), SETTINGS, range(9)
        )
        found = []
        with pytest.raises(SamplerError, match="status 400"):
            found.extend(index for index, _ in stream)
        assert found == [1] and len(endpoint.calls) == 2


def test_the_deadline_holds_for_an_answer_that_trickles():
    def respond(call: Call) -> None:
        call.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        while not endpoint.released.wait(0.01):
            call.handler.wfile.write(b" ")

    with Endpoint(respond) as endpoint:
        error = draw_error(endpoint, limits={"deadline_seconds": 1.0})
    assert "no whole answer within the deadline of 1 s" in error.found
    assert len(endpoint.calls) == 1


def test_a_list_of_models_that_is_a_page_names_the_likely_mistake():
    with Endpoint(models=b"<html>Welcome</html>") as endpoint, pytest.raises(SamplerError, match="usually ends in /v1"):
        ServedSampler(endpoint.settings())
