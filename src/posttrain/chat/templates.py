"""Chat templates: the Jinja environment that tokenizers' templates are written for, and where it runs.

The environment gives the same bytes as `tokenizer.apply_chat_template` of transformers, with three
differences that make rendering a pure function: `strftime_now` answers from a pinned date, and the
random `lipsum` and `random` of Jinja are absent. Text parts of a message are joined into one string.

A template is a program of unknown origin. The house's own runs in this process, all others in the
killable pool, where one that loops for ever or takes gigabytes costs its own row and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Any, Protocol

import jinja2
import jinja2.ext
import jinja2.sandbox
from jinja2 import nodes
from jinja2.parser import Parser

from posttrain.core.errors import SandboxError, TemplateError
from posttrain.core.hashing import hash_json, hash_text
from posttrain.sandbox.limits import JobError, Limits
from posttrain.sandbox.pool import Pool

DEFAULT_DATE = "2024-07-26"
"""The date that `strftime_now` answers from, unless a recipe names another."""

TEMPLATE_LIMITS = Limits(cpu_seconds=3.0, wall_seconds=30.0, memory_bytes=512 << 20, output_bytes=64 << 20)
BATCH_REQUESTS = 64
MAX_KILLS_IN_A_ROW = 5
REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")

PLAIN_TEMPLATE = """\
{%- if not eos_token %}{{ raise_exception("the plain template needs an end-of-sequence token") }}{% endif %}
{%- if bos_token and bos_token != eos_token %}{{ bos_token }}{% endif %}
{%- if tools %}
    {{- "Tools:\\n" }}
    {%- for tool in tools %}{{- tool | tojson + "\\n" }}{% endfor %}
    {{- 'Call one by <tool_call>{"name": ..., "arguments": {...}}</tool_call>' + eos_token + "\\n" }}
{%- endif %}
{%- for message in messages %}
    {{- message.role | capitalize + ":\\n" }}
    {%- if message.reasoning_content %}{{- "<think>" + message.reasoning_content + "</think>\\n" }}{% endif %}
    {{- message.content or "" }}
    {%- for call in message.tool_calls or [] %}
        {%- set function = call.function or call %}
        {%- set record = dict(name=function.name, arguments=function.arguments) %}
        {{- "<tool_call>" + record | tojson + "</tool_call>" }}
    {%- endfor %}
    {{- eos_token + "\\n" }}
{%- endfor %}
{%- if add_generation_prompt %}{{- "Assistant:\\n" }}{% endif %}
"""
"""For bases without a template: the tokenizer's own end of sequence ends every turn, so no token is added."""

HOUSE_TEMPLATES = frozenset({hash_text(PLAIN_TEMPLATE)})
"""Hashes of the templates that may render in this process."""


@dataclass(frozen=True, slots=True)
class TemplateProgram:
    """A template with everything it may read beside the messages: the same on every machine.

    Args:
        template: The Jinja source.
        variables: Special tokens by name (`eos_token`) and the template's own arguments (`enable_thinking`).
        date: What `strftime_now` answers from, `YYYY-MM-DD`.
    """

    template: str
    variables: Mapping[str, Any] = field(default_factory=dict)
    date: str = DEFAULT_DATE

    @property
    def hash(self) -> str:
        """The hash of source, variables and date."""
        return hash_json(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Return the program as JSON-like values, for a sandboxed process."""
        return {"template": self.template, "variables": dict(self.variables), "date": self.date}


class _GenerationBlock(jinja2.ext.Extension):
    """`{% generation %}` ... `{% endgeneration %}`: renders its body in a scope of its own."""

    tags = {"generation"}  # noqa: RUF012  # the name and type that Jinja reads

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_render"), [], [], body).set_lineno(line)

    def _render(self, caller: Callable[[], str]) -> str:
        return caller()


class _Namespace(jinja2.utils.Namespace):
    """Jinja's `namespace` without names that start with an underscore."""

    def __init__(*args: Any, **values: Any) -> None:
        self, *positional = args
        attributes = dict(*positional, **values)
        for name in attributes:
            _check_attribute(name)
        jinja2.utils.Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_attribute(name)
        super().__setitem__(name, value)


def _check_attribute(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace cannot hold the attribute {name!r}")


class _DictMaker:
    """The `dict` that templates call, without the type's own attributes."""

    def __call__(self, *args: Any, **values: Any) -> dict[Any, Any]:
        return dict(*args, **values)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise jinja2.exceptions.TemplateError(message)


def compile_template(program: TemplateProgram) -> Callable[..., str]:
    """Return the function that renders a template: keyword arguments in, text out.

    Raises:
        jinja2.TemplateSyntaxError: The source is not a template.
        ValueError: The date is not `YYYY-MM-DD`.
    """
    moment = datetime.fromisoformat(program.date)
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    del environment.filters["random"], environment.globals["lipsum"]
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = moment.strftime
    environment.globals["dict"] = _DictMaker()
    environment.globals["namespace"] = _Namespace
    return environment.from_string(program.template).render


def prepare_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return messages as templates expect them: no None, reasoning under its usual names, content a string.

    Raises:
        TemplateError: A content part is not text.
    """
    prepared = []
    for index, message in enumerate(messages):
        kept = {key: value for key, value in message.items() if value is not None}
        reasoning = next((kept[key] for key in REASONING_KEYS if key in kept), None)
        if reasoning is not None:
            kept = {"thinking": reasoning, **kept, "reasoning_content": reasoning}
        if isinstance(kept.get("content"), list | tuple):
            kept["content"] = "".join(_read_part(part, index) for part in kept["content"])
        prepared.append(kept)
    return prepared


def _read_part(part: Any, index: int) -> str:
    if isinstance(part, str):
        return part
    text = part.get("text") if isinstance(part, Mapping) and part.get("type", "text") == "text" else None
    if not isinstance(text, str):
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        raise TemplateError(
            f"message {index} has a content part of type {kind!r}",
            expected="parts of the form {'type': 'text', 'text': ...}",
            cure="drop the row, or keep its text parts only",
        )
    return text


def render_one(render: Callable[..., str], variables: Mapping[str, Any], request: Mapping[str, Any]) -> str:
    """Return the text of one request whose messages are prepared already."""
    return render(
        messages=request["messages"],
        tools=request.get("tools"),
        documents=None,
        add_generation_prompt=bool(request.get("add_generation_prompt", False)),
        **variables,
    )


def build_batch_renderer(program: Mapping[str, Any]) -> Callable[[list[dict[str, Any]]], list[list[str]]]:
    """Return what a sandboxed worker does: requests in, `["text", text]` or `["error", reason]` out, in order.

    The template is compiled with the first job and not before, because compiling folds constants, which
    can take for ever too and belongs under a job's limits.
    """
    known = TemplateProgram(program["template"], program["variables"], program["date"])
    compiled: list[Callable[..., str]] = []

    def render_batch(requests: list[dict[str, Any]]) -> list[list[str]]:
        answers = []
        for request in requests:
            try:
                if not compiled:
                    compiled.append(compile_template(known))
                answers.append(["text", render_one(compiled[0], known.variables, request)])
            except MemoryError:
                raise
            except Exception as error:  # noqa: BLE001  # a template of unknown origin may raise anything
                answers.append(["error", f"{type(error).__name__}: {error}"[:2000]])
        return answers

    return render_batch


class ClosingRenderer(Protocol):
    """A `TemplateRenderer` that holds something to give back."""

    def render(self, requests: Sequence[Mapping[str, Any]]) -> list[str | Exception]:
        """Return one text, or the error that stands in its place, for each request, in order."""

    def close(self) -> None:
        """Give back what the renderer holds."""


def build_template_renderer(program: TemplateProgram, *, num_workers: int = 1) -> ClosingRenderer:
    """Return the renderer that a template may have: in process for the house's own, the pool for all others."""
    if hash_text(program.template) in HOUSE_TEMPLATES:
        return InProcessRenderer(program)
    return SandboxedRenderer(program, num_workers=num_workers)


class InProcessRenderer:
    """Renders a trusted template in this process.

    Raises:
        TemplateError: The source is not a template.
    """

    def __init__(self, program: TemplateProgram) -> None:
        self.program = program
        self._render_batch = build_batch_renderer(program.to_json())
        try:
            compile_template(program)
        except (jinja2.TemplateSyntaxError, ValueError) as error:
            raise _template_error(f"{type(error).__name__}: {error}") from None

    def render(self, requests: Sequence[Mapping[str, Any]]) -> list[str | Exception]:
        """Return one text, or a `TemplateError`, for each request, in order."""
        prepared = [_prepare_request(request) for request in requests]
        return _fill(prepared, lambda good: [_read_answer(answer) for answer in self._render_batch(good)])

    def close(self) -> None:
        """Nothing to give back."""


class SandboxedRenderer:
    """Renders a template of unknown origin in killable processes.

    Requests travel in batches; a batch that is killed is done again one request at a time, so that only
    the guilty pay. After several kills in a row with no text between them the template is given up: every
    further request is answered with the same error at once.
    """

    def __init__(self, program: TemplateProgram, *, num_workers: int = 1, limits: Limits = TEMPLATE_LIMITS) -> None:
        self.program = program
        self._pool = Pool(
            "posttrain.chat.templates:build_batch_renderer",
            num_workers=num_workers,
            limits=limits,
            initial=program.to_json(),
        )
        self._kills_in_a_row = 0
        self._given_up: TemplateError | None = None

    def render(self, requests: Sequence[Mapping[str, Any]]) -> list[str | Exception]:
        """Return one text, or a `TemplateError`, for each request, in order.

        Raises:
            SandboxError: No process can be started.
        """
        prepared = [_prepare_request(request) for request in requests]
        try:
            return _fill(prepared, self._render_prepared)
        except (TypeError, ValueError):  # some request has no JSON form: find out which, and do the others
            return _fill([_check_json(request) for request in prepared], self._render_prepared)

    def close(self) -> None:
        """End the processes; a later `render` starts fresh ones."""
        self._pool.close()

    def __enter__(self) -> SandboxedRenderer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _render_prepared(self, requests: list[dict[str, Any]]) -> list[str | Exception]:
        """Render the first batch before the others, so that a hopeless template costs one batch's deadline."""
        batches = [requests[start : start + BATCH_REQUESTS] for start in range(0, len(requests), BATCH_REQUESTS)]
        return [*self._render_batches(batches[:1]), *self._render_batches(batches[1:])]

    def _render_batches(self, batches: list[list[dict[str, Any]]]) -> list[str | Exception]:
        if self._given_up is not None:
            return [self._given_up for batch in batches for _ in batch]
        texts: list[str | Exception] = []
        for batch, answer in zip(batches, self._pool.map(batches), strict=True):
            if isinstance(answer, SandboxError):
                texts.extend(self._render_alone(request) for request in batch)
            else:
                self._kills_in_a_row = 0
                texts.extend(map(_read_answer, answer))
        return texts

    def _render_alone(self, request: dict[str, Any]) -> str | Exception:
        if self._given_up is not None:
            return self._given_up
        (answer,) = self._pool.map([[request]])
        if not isinstance(answer, SandboxError):
            self._kills_in_a_row = 0
            return _read_answer(answer[0])
        found = answer.message if isinstance(answer, JobError) else answer.found
        error = _template_error(f"rendering was stopped: {found}")
        self._kills_in_a_row += 1
        if self._kills_in_a_row >= MAX_KILLS_IN_A_ROW:
            self._given_up = error
        return error


def _prepare_request(request: Mapping[str, Any]) -> dict[str, Any] | TemplateError:
    try:
        return {**request, "messages": prepare_messages(request["messages"])}
    except TemplateError as error:
        return error


def _check_json(request: dict[str, Any] | TemplateError) -> dict[str, Any] | TemplateError:
    """Return a request that can travel to another process, or the error that it cannot."""
    if isinstance(request, TemplateError):
        return request
    try:
        json.dumps(request)
    except (TypeError, ValueError) as error:
        return TemplateError(
            f"the messages or tools hold a value without a JSON form: {error}",
            expected="strings, numbers, booleans, null, lists and objects",
            cure="convert the value in the data, or drop the row",
        )
    return request


def _fill(
    prepared: Sequence[dict[str, Any] | TemplateError],
    render: Callable[[list[dict[str, Any]]], list[str | Exception]],
) -> list[str | Exception]:
    """Render what could be prepared, and put the results where they belong."""
    good = [request for request in prepared if not isinstance(request, TemplateError)]
    texts = iter(render(good))
    return [request if isinstance(request, TemplateError) else next(texts) for request in prepared]


def _read_answer(answer: Sequence[str]) -> str | Exception:
    kind, text = answer
    return text if kind == "text" else _template_error(text)


def _template_error(found: str) -> TemplateError:
    return TemplateError(
        f"the chat template failed: {found}",
        expected="a template that renders these messages",
        cure="drop or correct the row, or name another template with chat.template",
        place="chat template",
    )
