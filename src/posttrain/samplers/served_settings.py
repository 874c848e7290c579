"""How an OpenAI-compatible endpoint is reached and paid: address, model, key, limits and prices.

A key comes from an environment variable that the settings name. It is never written in the settings, and
never shown in a message, a log, a file or a `repr`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any, Literal, NoReturn, Self

import httpx2
from pydantic import ConfigDict, Field, field_validator, model_validator

from posttrain.core.config import Config, display_field
from posttrain.core.errors import RecipeError

_VARIABLE = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+")
_KEY_TEXT = re.compile(r"[!#-\[\]-~]+")
_SHORTEST_SECRET = 12
REDACTED = "[key]"


class RequestLimits(Config):
    """How many requests are made, how fast, how often, and how long each may take; none of it changes an answer.

    Args:
        max_in_flight: Most requests at the same time.
        requests_per_minute: Most requests begun in any 60 seconds; None: no limit of one's own.
        tokens_per_minute: Most tokens in any 60 seconds, prompt and completion together; a request counts as
            a third of its bytes and `max_new_tokens` until its answer says better. None: no limit of one's own.
        max_attempts: How often a request is made in all before it has failed.
        backoff_seconds: Wait before the second attempt; it doubles with each further one.
        max_backoff_seconds: Longest such wait.
        connect_timeout_seconds: How long a connection may take to be made.
        read_timeout_seconds: How long an endpoint may be silent; it is silent while it draws.
        deadline_seconds: How long a request may take with all its attempts, and the longest pause that an
            endpoint may ask for.
        max_answer_bytes: A longer answer is not read.
    """

    max_in_flight: int = display_field(8, ge=1, le=512)
    requests_per_minute: int | None = display_field(None, ge=1)
    tokens_per_minute: int | None = display_field(None, ge=1)
    max_attempts: int = display_field(6, ge=1)
    backoff_seconds: float = display_field(1.0, gt=0)
    max_backoff_seconds: float = display_field(60.0, gt=0)
    connect_timeout_seconds: float = display_field(10.0, gt=0)
    read_timeout_seconds: float = display_field(300.0, gt=0)
    deadline_seconds: float = display_field(900.0, gt=0)
    max_answer_bytes: int = display_field(32 << 20, ge=1)


class Prices(Config):
    """What an endpoint charges, in a currency of your choice.

    Args:
        prompt_per_million: Price of a million prompt tokens.
        completion_per_million: Price of a million completion tokens.
        budget: Most that may be spent, in the same currency; None: no limit.
    """

    prompt_per_million: float = display_field(ge=0)
    completion_per_million: float = display_field(ge=0)
    budget: float | None = display_field(None, gt=0)


class ServedSettings(Config):
    """An endpoint as a source of completions.

    Made from a recipe or by hand, read by `ServedSampler`.

    Example: `ServedSettings(base_url="https://api.example.com/v1", model="small", api_key_env="EXAMPLE_API_KEY")`
    asks `https://api.example.com/v1/chat/completions` with the key that `EXAMPLE_API_KEY` holds.

    Args:
        base_url: Address that `/chat/completions` is appended to; it usually ends in `/v1`.
        model: The endpoint's name of the model.
        kind: `openai` sends what OpenAI's interface defines, and refuses other settings; `vllm` sends those
            of vLLM too.
        route: `chat` sends messages and tools, `completions` the text of a prompt that is rendered here.
        api_key_env: Environment variable that holds the key; None: no key.
        allow_plain_http: Let a key travel unencrypted to another machine.
        logprobs: Ask for the log-probs of drawn tokens; `top_logprobs` of the sampling settings does so too.
        keep_reasoning: Put thinking that the endpoint returns apart before the text, as `<think>...</think>`.
        length_field: What the endpoint calls the cap on new tokens.
        extra_body: Further fields of every request, as they are.
        cache: Folder of stored answers; None: nothing is stored.
        limits: Requests, rates and time-outs.
        prices: What tokens cost, and a budget; None: costs are not known.
    """

    model_config = ConfigDict(hide_input_in_errors=True)

    base_url: str
    model: str
    kind: Literal["openai", "vllm"] = "openai"
    route: Literal["chat", "completions"] = "chat"
    api_key_env: str | None = display_field(None)
    allow_plain_http: bool = display_field(False)
    logprobs: bool = False
    keep_reasoning: bool = False
    length_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    extra_body: dict[str, Any] = Field(default_factory=dict)
    cache: str | None = display_field(None)
    limits: RequestLimits = display_field(RequestLimits())
    prices: Prices | None = display_field(None)

    @model_validator(mode="before")
    @classmethod
    def _check_secrets(cls, values: Any) -> Any:
        """Refuse what may hold a key; before the fields are read, so that no message shows it."""
        if isinstance(values, Mapping):
            variable, url = values.get("api_key_env"), values.get("base_url")
            if variable is not None and not (isinstance(variable, str) and _VARIABLE.fullmatch(variable)):
                raise ValueError(
                    "api_key_env must be the name of an environment variable, in capitals with an underscore, such as "
                    "OPENAI_API_KEY, never the key itself (what was found is not shown: it may be one)"
                )
            if isinstance(url, str) and re.search(r"[@?#]", url):
                raise ValueError(
                    "base_url must hold no user, password, query or fragment (it is not shown: it may hold a key); "
                    "name the key's environment variable in api_key_env"
                )
        return values

    @field_validator("base_url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        try:
            url = httpx2.URL(value)
        except httpx2.InvalidURL as error:
            raise ValueError(f"no address: {error}") from None
        if url.scheme not in ("http", "https") or not url.host or re.search(r"\s", value):
            raise ValueError("no address of the form https://host/v1")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _check_encryption(self) -> Self:
        url = httpx2.URL(self.base_url)
        if self.api_key_env and url.scheme == "http" and not is_loopback(url.host) and not self.allow_plain_http:
            raise ValueError(
                f"a key would travel unencrypted to {url.host}: use https, or set allow_plain_http: true if the way "
                "there is protected otherwise"
            )
        return self


class Secret:
    """A key that no `repr`, message or pickle shows."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the key itself: for the header of a request alone."""
        return self._text

    def redact(self, text: str) -> str:
        """Return a text with the key blotted out wherever it stands."""
        escaped = self._text.replace("/", "\\/")  # as some servers write JSON
        return text.replace(self._text, REDACTED).replace(escaped, REDACTED)

    @property
    def is_guessable(self) -> bool:
        """Whether the key is as short as a word (`EMPTY`, say), which may stand in an answer by chance."""
        return len(self._text) < _SHORTEST_SECRET

    def __repr__(self) -> str:
        return f"Secret({REDACTED})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key is not pickled")


def read_key(served: ServedSettings, environment: Mapping[str, str]) -> Secret | None:
    """Return the key that the settings name, or None where they name none.

    Raises:
        RecipeError: The variable is not set, or holds something that no key is.
    """
    if served.api_key_env is None:
        return None
    value = environment.get(served.api_key_env, "").strip()
    if not value:
        raise RecipeError(
            f"the environment variable {served.api_key_env} is not set, or empty",
            expected="the key of the endpoint in it",
            cure=f"export {served.api_key_env}=..., or leave api_key_env out for an endpoint without keys",
            place="api_key_env",
        )
    if not _KEY_TEXT.fullmatch(value):
        raise RecipeError(
            f"the environment variable {served.api_key_env} holds blanks, quotes or characters outside ASCII",
            expected="a key, which has none of them",
            cure="copy the key again, without quotes and line ends",
            place="api_key_env",
        )
    return Secret(value)


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine itself."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
