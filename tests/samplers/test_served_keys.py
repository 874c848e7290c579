"""A key comes from the environment alone, goes to the endpoint alone, and is seen nowhere else."""

import copy
import logging
import pickle
import threading
import traceback

import pytest
from pydantic import ValidationError

from posttrain.core.config import parse_config
from posttrain.core.errors import PosttrainError, RecipeError, SamplerError
from posttrain.core.sampling import SamplingSettings
from posttrain.samplers.served import ServedSampler
from posttrain.samplers.served_settings import Secret, ServedSettings, is_loopback, read_key
from tests.samplers.endpoint import Call, Endpoint, build_problems, chat_answer

KEY = "sk-planted/0123456789abcdefghijklmnop"
ENVIRONMENT = {"SERVED_API_KEY": KEY}
SETTINGS = SamplingSettings(max_new_tokens=8)
LITERALS = [
    "sk-0123456789",
    "gsk_abcdef",
    "0123456789ABCDEF",
    "ABCDEF0123456789",
    "Bearer X_Y",
    "$OPENAI_API_KEY",
    "",
    7,
]


def parse(**values):
    return parse_config(ServedSettings, {"model": "tiny", **values}, place="sampler")


@pytest.mark.parametrize("literal", LITERALS)
def test_a_key_in_place_of_a_variables_name_is_refused_without_being_shown(literal):
    values = {"base_url": "https://example.com/v1", "api_key_env": literal}
    with pytest.raises(RecipeError, match="never the key itself") as refused:
        parse(**values)
    with pytest.raises(ValidationError) as raised:
        ServedSettings(**values, model="tiny")
    if literal:
        assert str(literal) not in str(refused.value) + str(raised.value) + str(refused.value.to_json())


@pytest.mark.parametrize(
    "tail", ["user:planted@example.com/v1", "example.com/v1?key=planted", "example.com/v1#planted"]
)
def test_a_key_in_the_address_is_refused_without_being_shown(tail):
    with pytest.raises(RecipeError, match="no user, password, query or fragment") as refused:
        parse(base_url=f"https://{tail}")
    with pytest.raises(ValidationError) as raised:
        ServedSettings(base_url=f"https://{tail}", model="tiny")
    assert "planted" not in str(refused.value) + str(raised.value)


@pytest.mark.parametrize(
    "url", ["example.com/v1", "ftp://example.com", "http://", "", "/v1", "https://exa mple.com", 7]
)
def test_what_is_no_address_is_refused(url):
    with pytest.raises(RecipeError, match="base_url"):
        parse(base_url=url)


@pytest.mark.parametrize(
    ("url", "is_refused"),
    [
        ("http://example.com/v1", True),
        ("http://10.0.0.7:8000/v1", True),
        ("http://127.0.0.1.example.com/v1", True),
        ("http://0.0.0.0:8000/v1", True),
        ("https://example.com/v1", False),
        ("http://127.0.0.1:8000/v1", False),
        ("http://127.9.9.9:8000/v1", False),
        ("http://localhost:8000/v1", False),
        ("http://[::1]:8000/v1", False),
    ],
)
def test_a_key_does_not_travel_unencrypted_to_another_machine(url, is_refused):
    parse(base_url=url)
    parse(base_url=url, api_key_env="SERVED_API_KEY", allow_plain_http=True)
    if is_refused:
        with pytest.raises(RecipeError, match="would travel unencrypted"):
            parse(base_url=url, api_key_env="SERVED_API_KEY")
    else:
        parse(base_url=url, api_key_env="SERVED_API_KEY")


def test_only_this_machine_is_this_machine():
    assert [host for host in ("localhost", "127.0.0.1", "::1", "[::1]") if not is_loopback(host)] == []
    assert [host for host in ("localhost.example.com", "0.0.0.0", "10.0.0.1", "::", "") if is_loopback(host)] == []


@pytest.mark.parametrize("value", [None, "", "  \n"])
def test_a_variable_that_is_not_set_is_an_error_that_names_it(value):
    served = parse(base_url="https://example.com/v1", api_key_env="SERVED_API_KEY")
    environment = {} if value is None else {"SERVED_API_KEY": value}
    with pytest.raises(RecipeError, match="the environment variable SERVED_API_KEY is not set, or empty"):
        read_key(served, environment)


@pytest.mark.parametrize("value", ["planted key", '"planted"', "planted\nX: y", "plänted", "planted\\", "planted\x00"])
def test_a_value_that_no_header_takes_is_refused_without_being_shown(value):
    served = parse(base_url="https://example.com/v1", api_key_env="SERVED_API_KEY")
    with pytest.raises(RecipeError, match="blanks, quotes or characters outside ASCII") as caught:
        read_key(served, {"SERVED_API_KEY": value})
    assert "pl" not in caught.value.found.replace("SERVED_API_KEY", "").replace("place", "")


def test_a_key_is_neither_shown_nor_pickled():
    secret = Secret(KEY)
    assert KEY not in repr(secret) + str(secret) + f"{secret}" + repr([secret])
    for copying in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match="not pickled"):
            copying(secret)


def test_the_key_goes_into_one_header_of_every_request_and_nowhere_else():
    with Endpoint() as endpoint:
        served = endpoint.settings(api_key_env="SERVED_API_KEY")
        list(ServedSampler(served, environment=ENVIRONMENT).sample(build_problems(2), SETTINGS, range(2)))
        list(ServedSampler(endpoint.settings()).sample(build_problems(1), SETTINGS, [0]))
    for call in endpoint.calls[:2]:
        headers = {name for name, text in call.headers.items() if KEY in text}
        assert headers == {"authorization"} and call.headers["authorization"] == f"Bearer {KEY}"
        assert KEY not in repr(call.body) + call.path
    assert "authorization" not in endpoint.calls[2].headers


def say_it_back(call: Call) -> None:
    """Answer with the key in every place that is read or shown."""
    text = f"your key is {KEY}"
    kind = int(call.body["messages"][0]["content"].split()[1]) % 5
    if kind == 0:
        call.reply(chat_answer(text, system_fingerprint=text))
    elif kind == 1:
        call.reply({"error": {"message": text}}, 401)
    elif kind == 2:
        call.reply(text.encode(), 200)
    elif kind == 3:
        call.reply(b"", 307, {"Location": f"http://127.0.0.1:1/{KEY}"})
    else:
        call.reply(b'{"error": "' + b" " * 2390 + KEY.replace("/", "\\/").encode() + b'"}', 500)


def test_a_planted_key_is_found_nowhere(tmp_path, caplog, capfd):
    seen = []
    with caplog.at_level(logging.DEBUG), Endpoint(say_it_back) as endpoint:
        served = endpoint.settings(api_key_env="SERVED_API_KEY", cache=str(tmp_path / "answers"))
        sampler = ServedSampler(served, environment=ENVIRONMENT)
        for number in range(5):
            problem = build_problems(5)[number : number + 1]
            try:
                seen += [repr(found) for found in sampler.sample(problem, SETTINGS, [0])]
            except SamplerError as error:
                seen += [repr(error), str(error.to_json()), *traceback.format_exception(error)]
        held = [sampler, served, *vars(sampler).values(), *vars(sampler._client).values(), sampler.usage]
        seen += [repr(one) for one in held] + [served.model_dump_json(), repr(served.identity())]
        sampler.close()
    seen += [caplog.text, repr(caplog.records), *capfd.readouterr()]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    seen += [path.read_text() + path.name for path in files]
    assert len(files) == 2 and "[key]" in "".join(seen)
    assert len(endpoint.calls) == 8 and "127.0.0.1:1/[key]" in caplog.text  # the library's own log of headers
    for text in seen:
        assert KEY not in text and KEY.replace("/", "\\/") not in text and "0123456789abcdef" not in text


def test_a_key_that_is_a_plain_word_does_not_change_answers_that_hold_it():
    with Endpoint(lambda call: call.answer("the set is EMPTY")) as endpoint:
        served = endpoint.settings(api_key_env="SERVED_API_KEY")
        sampler = ServedSampler(served, environment={"SERVED_API_KEY": "EMPTY"})
        ((_, completion),) = sampler.sample(build_problems(1), SETTINGS, [0])
    assert completion.text == "the set is EMPTY"


def test_no_credentials_of_the_environment_go_to_this_machine(tmp_path, monkeypatch):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login someone password planted\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://someone:planted@127.0.0.1:1")
    with Endpoint() as endpoint:
        list(ServedSampler(endpoint.settings()).sample(build_problems(1), SETTINGS, [0]))
    assert "planted" not in repr(endpoint.calls[0].headers) and "authorization" not in endpoint.calls[0].headers


def test_a_wrong_key_is_an_error_with_the_cure_when_the_sampler_is_made(monkeypatch):
    reply = Call.reply
    monkeypatch.setattr(Call, "reply", lambda call, value: reply(call, {"error": f"bad {KEY}"}, 401))
    with Endpoint() as endpoint, pytest.raises(PosttrainError) as caught:
        ServedSampler(endpoint.settings(api_key_env="SERVED_API_KEY"), environment=ENVIRONMENT)
    assert caught.value.exit_code == 7 and "api_key_env" in caught.value.cure
    assert "bad [key]" in caught.value.found
    assert not [thread for thread in threading.enumerate() if thread.name == "posttrain-served"]
