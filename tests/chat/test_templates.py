"""The environment gives the bytes that transformers gives; a hostile template costs its own row."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from posttrain.chat.templates import (
    MAX_KILLS_IN_A_ROW,
    PLAIN_TEMPLATE,
    InProcessRenderer,
    SandboxedRenderer,
    TemplateProgram,
    build_template_renderer,
    prepare_messages,
)
from posttrain.core.errors import TemplateError
from posttrain.sandbox.limits import Limits
from tests.chat import hostile
from tests.chat.conversations import TOOLS, build_conversation
from tests.chat.formats import FORMS, name_of

MESSAGES = [
    {"role": "user", "content": " Grüße <b>&amp;</b> 'q' \"d\" \u2028 🦩 "},
    {
        "role": "assistant",
        "content": "ok\n",
        "tool_calls": [{"function": {"name": "f", "arguments": {"ü": [1, None]}}}],
    },
]
SNIPPETS = [
    "{% for m in messages %}\n    {{ m.content }}\n{% endfor %}\n",
    "{%- for m in messages -%}  {{ m['content'] | trim }} {%- endfor -%}\n\n",
    "    {% if true %}\n  x\n    {% endif %}\ny",
    "{{ messages[1].tool_calls[0].function.arguments | tojson }}",
    "{{ messages[1].tool_calls | tojson(indent=2) }}",
    "{{ {'b': 1, 'a': 'ü'} | tojson(sort_keys=true, ensure_ascii=true) }}",
    "{{ {'b': 1} | tojson(separators=(',', ':')) }}",
    "{% for m in messages %}{% if loop.index0 == 1 %}{% break %}{% endif %}{{ m.role }}{% endfor %}",
    "{% for m in messages %}{% if m.role == 'user' %}{% continue %}{% endif %}{{ m.role }}{% endfor %}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 2 %}{% endfor %}{{ ns.n }}",
    "{% generation %}{% set x = 1 %}in{{ x }}{% endgeneration %}{{ x is defined }}",
    "a\n  {%- generation -%}\n  b\n  {%- endgeneration -%}\n c",
    "{% macro show(m) %}[{{ m.role }}]{% endmacro %}{% for m in messages %}{{ show(m) }}{% endfor %}",
    "{{ bos_token }}{{ missing }}{{ missing is defined }}{{ tools is none }}{{ add_generation_prompt }}",
    "{{ dict(a=1, **{'b': 2}) }}{{ dict.fromkeys(['k']) }}{{ messages[0].get('nothing', 'default') }}",
    "{{ messages[0].content is string }}{{ messages[0] is mapping }}{{ messages is iterable }}",
    "{{ messages[::-1][0].role }}{{ 'a' ~ 1 ~ none }}{{ messages | map(attribute='role') | join(',') }}",
    "{{ '<b>' | escape }}{{ 'a-b'.split('-')[1].upper() }}{{ 'x%s' % 3 }}{{ '%.2f' | format(1) }}{{ 7 // 2 }}",
    "{% raw %}{{ kept }}{% endraw %}{# gone #}{{ range(3) | list }}{{ messages[0].thinking }}",
]
TIGHT = Limits(cpu_seconds=0.3, wall_seconds=20.0, memory_bytes=256 << 20, output_bytes=1 << 20)


def program(template: str, **variables: Any) -> TemplateProgram:
    return TemplateProgram(template, {"bos_token": "<s>", "eos_token": "</s>", **variables})


def word(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_the_environment_gives_the_bytes_of_transformers(snippet: str) -> None:
    ours = InProcessRenderer(program(snippet)).render([{"messages": MESSAGES, "add_generation_prompt": True}])
    theirs, _ = render_jinja_template(
        [MESSAGES], chat_template=snippet, add_generation_prompt=True, bos_token="<s>", eos_token="</s>"
    )
    assert ours == theirs


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ raise_exception('not like this') }}", "not like this"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{{ messages.__class__.__mro__ }}", "SecurityError"),
        ("{% set n = namespace(_x=1) %}", "SecurityError"),
        ("{{ none + 'x' }}", "TypeError"),
        ("{{ missing.deeper }}", "UndefinedError"),
        ("{% for m in messages %}{{ m.content | no_such_filter }}{% endfor %}", "no_such_filter"),
        ("{{ lipsum() }}", "UndefinedError"),
        ("{{ messages | random }}", "random"),
        ("{% include 'x' %}", "TypeError"),
        ("{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}", "RecursionError"),
    ],
)
def test_a_template_that_fails_is_an_error_with_its_own_words(template: str, text: str) -> None:
    with SandboxedRenderer(program(template)) as renderer:
        (error,) = renderer.render([{"messages": MESSAGES}])
    assert isinstance(error, TemplateError)
    assert text in error.found and error.cure


@pytest.mark.parametrize("template", ["{% for %}", "{{ 'open", "{% generation %}"])
def test_a_source_that_is_no_template_is_refused(template: str) -> None:
    with pytest.raises(TemplateError, match="TemplateSyntaxError"):
        InProcessRenderer(program(template))
    with SandboxedRenderer(program(template)) as renderer:
        (error,) = renderer.render([{"messages": MESSAGES}])
    assert isinstance(error, TemplateError) and "TemplateSyntaxError" in error.found


def test_today_is_the_pinned_date() -> None:
    template = "{{ strftime_now('%d %b %Y, %A') }}"
    assert InProcessRenderer(program(template)).render([word("x")]) == ["26 Jul 2024, Friday"]
    dated = TemplateProgram(template, {}, "2031-01-02")
    assert InProcessRenderer(dated).render([word("x")]) == ["02 Jan 2031, Thursday"]
    assert dated.hash != program(template).hash
    with pytest.raises(TemplateError, match="isoformat"):
        InProcessRenderer(TemplateProgram(template, {}, "yesterday"))


def test_the_houses_template_renders_here_and_all_others_in_the_sandbox() -> None:
    assert isinstance(build_template_renderer(program(PLAIN_TEMPLATE)), InProcessRenderer)
    other = build_template_renderer(program(PLAIN_TEMPLATE + " "))
    assert isinstance(other, SandboxedRenderer)
    other.close()


@pytest.mark.parametrize("form", FORMS, ids=name_of)
def test_the_sandbox_gives_the_same_bytes_as_this_process(form: Any) -> None:
    known = TemplateProgram(form.template, {"bos_token": form.bos, "eos_token": form.eos, **form.arguments})
    requests: list[dict[str, Any]] = []
    for index in range(6):
        messages, tools = build_conversation(index, form.shows)
        requests += [{"messages": messages, "tools": tools}, {"messages": messages[:-1], "add_generation_prompt": True}]
    with SandboxedRenderer(known) as renderer:
        answers = renderer.render(requests)
    assert answers == InProcessRenderer(known).render(requests)
    assert all(isinstance(answer, str) for answer in answers)


def test_a_row_that_hangs_or_eats_memory_is_killed_and_its_batch_mates_survive() -> None:
    words = ["one", "spin", "two", "eat", "three", "flood", *(f"word {index}" for index in range(100))]
    with SandboxedRenderer(program(hostile.CONDITIONAL), limits=TIGHT, num_workers=2) as renderer:
        answers = renderer.render([word(text) for text in words])
        again = renderer.render([word("still there")])
    assert again == ["still there"]
    for text, answer in zip(words, answers, strict=True):
        if text in ("spin", "eat", "flood"):
            assert isinstance(answer, TemplateError) and "rendering was stopped" in answer.found
        else:
            assert answer == text
    reasons = [answers[1].found, answers[3].found, answers[5].found]  # type: ignore[union-attr]
    assert ["0.3 s of CPU" in reasons[0], "memory ran out" in reasons[1], "more than 1048576" in reasons[2]] == [
        True
    ] * 3


def test_a_row_that_holds_no_json_leaves_its_batch_mates_alone() -> None:
    bad = {"messages": [{"role": "user", "content": "x", "when": date(2024, 7, 26)}]}
    with SandboxedRenderer(program(hostile.CONDITIONAL)) as renderer:
        answers = renderer.render([word("one"), bad, *[word("more")] * 100])
    assert [answers[0], *answers[2:]] == ["one", *["more"] * 100]
    assert isinstance(answers[1], TemplateError) and "date is not JSON serializable" in answers[1].found


@pytest.mark.parametrize("template", [hostile.SPIN, "{{ 9 ** (9 ** (9 ** 9)) }}"])
def test_a_template_that_always_hangs_is_given_up_after_a_few_kills(
    template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one hangs in the compiler, which folds its constant."""
    with SandboxedRenderer(program(template), limits=TIGHT) as renderer:
        jobs: list[Any] = []
        do_map = renderer._pool.map
        monkeypatch.setattr(renderer._pool, "map", lambda batch: jobs.extend(batch) or do_map(batch))
        answers = renderer.render([word("x")] * 700)
        assert len(jobs) == 1 + MAX_KILLS_IN_A_ROW
        assert renderer.render([word("x")] * 3) == [answers[-1]] * 3
    assert all(isinstance(answer, TemplateError) for answer in answers)
    assert len(answers) == 700


def test_messages_are_prepared_without_none_and_with_reasoning_under_its_usual_names() -> None:
    messages = [{"role": "assistant", "content": None, "reasoning": "r", "tool_calls": None}]
    assert prepare_messages(messages) == [
        {"role": "assistant", "reasoning": "r", "thinking": "r", "reasoning_content": "r"}
    ]
    assert prepare_messages(prepare_messages(messages)) == prepare_messages(messages)
    assert messages[0]["content"] is None  # the caller's messages are left as they are


def test_the_plain_template_reads_as_written_here() -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "reasoning_content": "A sum.", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "2"},
    ]
    request = {"messages": messages, "tools": TOOLS[:0], "add_generation_prompt": True}
    (text,) = InProcessRenderer(program(PLAIN_TEMPLATE)).render([request])
    assert text == (
        "<s>System:\nBe brief.</s>\nUser:\n1+1?</s>\n"
        'Assistant:\n<think>A sum.</think>\n<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call></s>\n'
        "Tool:\n2</s>\nAssistant:\n"
    )
    (with_tools,) = InProcessRenderer(program(PLAIN_TEMPLATE)).render([{"messages": messages[1:2], "tools": TOOLS}])
    assert isinstance(with_tools, str) and with_tools.startswith('<s>Tools:\n{"type": "function"')


def test_the_plain_template_writes_no_bos_that_is_the_eos_and_needs_an_eos() -> None:
    (text,) = InProcessRenderer(TemplateProgram(PLAIN_TEMPLATE, {"bos_token": "<e>", "eos_token": "<e>"})).render(
        [word("Hi")]
    )
    assert text == "User:\nHi<e>\n"
    (error,) = InProcessRenderer(TemplateProgram(PLAIN_TEMPLATE)).render([word("Hi")])
    assert isinstance(error, TemplateError) and "end-of-sequence" in error.found
