"""Which turns are trained on, where they begin and end, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from posttrain.chat.rendering import ChatFormat, Renderer, SampleRequest
from posttrain.chat.templates import InProcessRenderer, TemplateProgram
from posttrain.core.errors import TemplateError
from posttrain.core.records import RenderedSample, Source
from posttrain.models.text_tokenizer import HuggingFaceTextTokenizer
from tests.chat.conversations import TOOLS
from tests.chat.formats import FORMS, build_backend, build_renderer, build_tokenizer

INDEX = {form.name: index for index, form in reversed(list(enumerate(FORMS)))}
DIALOGUE = [
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "Paris."},
    {"role": "user", "content": "12 + 30?"},
    {"role": "assistant", "content": "42"},
]


def renderer_of(name: str, kind: str = "bytes", **arguments: Any) -> Renderer:
    return build_renderer(build_tokenizer(kind, INDEX[name]), FORMS[INDEX[name]].template, arguments)


def renderer_for(template: str, name: str = "chatml") -> Renderer:
    return build_renderer(build_tokenizer("bytes", INDEX[name]), template, {})


def samples_of(renderer: Renderer, messages: Any, **settings: Any) -> list[RenderedSample]:
    (samples,) = renderer.render_samples([SampleRequest(messages, **settings)])
    assert isinstance(samples, list), samples
    return samples


def error_of(renderer: Renderer, messages: Any, **settings: Any) -> TemplateError:
    (error,) = renderer.render_samples([SampleRequest(messages, **settings)])
    assert isinstance(error, TemplateError)
    return error


def shown(renderer: Renderer, sample: RenderedSample, source: Source | None = None) -> str:
    """Return the text of a sample's trained tokens, or of the tokens of one source."""
    chosen = sample.is_trainable_T if source is None else sample.sources_T == source
    return renderer.tokenizer.decode(sample.ids_T[chosen].tolist())


def test_a_chatml_dialogue_is_one_sample_that_trains_both_answers_and_no_newline() -> None:
    renderer = renderer_of("chatml")
    (sample,) = samples_of(renderer, DIALOGUE)
    assert shown(renderer, sample) == "Paris.<|im_end|>42<|im_end|>"
    assert renderer.tokenizer.decode(sample.ids_T[-1:].tolist()) == "\n"
    assert not sample.is_trainable_T[-1]
    assert (sample.ids_T.dtype, sample.sources_T.dtype, sample.is_trainable_T.dtype) == (np.int32, np.uint8, np.bool_)


def test_the_stop_token_is_trained_although_it_is_the_padding_token() -> None:
    for form in FORMS:
        tokenizer = build_tokenizer("bytes", FORMS.index(form))
        renderer = build_renderer(tokenizer, form.template, form.arguments)
        assert tokenizer.pad_token_id == tokenizer.eos_token_id
        for sample in samples_of(renderer, DIALOGUE):
            assert tokenizer.convert_ids_to_tokens(int(sample.ids_T[sample.is_trainable_T][-1])) == form.turn_end


def test_a_template_that_strips_past_thinking_gives_one_sample_a_turn() -> None:
    renderer = renderer_of("qwen3_form")
    messages = [dict(message) for message in DIALOGUE]
    messages[1]["reasoning_content"] = "France, easy."
    messages[3]["reasoning_content"] = "A sum."
    first, second = samples_of(renderer, messages)
    assert shown(renderer, first) == "<think>\nFrance, easy.\n</think>\n\nParis.<|im_end|>"
    assert shown(renderer, second) == "<think>\nA sum.\n</think>\n\n42<|im_end|>"
    assert "easy" not in renderer.tokenizer.decode(second.ids_T.tolist())


def test_thinking_inside_the_content_is_trained_as_the_template_shows_it() -> None:
    renderer = renderer_of("qwen3_form")
    messages = [DIALOGUE[0], {"role": "assistant", "content": "<think>\nEasy.\n</think>\n\nParis."}]
    (sample,) = samples_of(renderer, messages)
    assert shown(renderer, sample) == "<think>\nEasy.\n</think>\n\nParis.<|im_end|>"
    marker = build_tokenizer("bytes", INDEX["qwen3_form"]).convert_tokens_to_ids("<think>")
    assert marker in sample.ids_T[sample.is_trainable_T]  # a marker that is no control token keeps its id


def test_a_prompt_that_closes_thinking_leaves_the_answer_alone_to_be_trained() -> None:
    renderer = renderer_of("qwen3_form", enable_thinking=False)
    samples = samples_of(renderer, DIALOGUE)
    assert [shown(renderer, sample) for sample in samples] == ["Paris.<|im_end|>", "42<|im_end|>"]


def test_tool_calls_are_trained_and_tool_results_are_not() -> None:
    renderer = renderer_of("qwen3_form")
    call = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Paris"}}}
    messages = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "name": "get_weather", "content": "sunny, 30"},
        {"role": "assistant", "content": "Sunny."},
    ]
    samples = samples_of(renderer, messages, tools=TOOLS)
    trained = "".join(shown(renderer, sample) for sample in samples)
    assert '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call><|im_end|>' in trained
    assert trained.endswith("Sunny.<|im_end|>")
    assert "sunny, 30" not in trained
    assert shown(renderer, samples[-1], Source.TOOL) == "sunny, 30"


def test_first_trained_and_train_on_choose_the_turns() -> None:
    renderer = renderer_of("chatml")
    assert shown(renderer, samples_of(renderer, DIALOGUE, first_trained=2)[0]) == "42<|im_end|>"
    assert shown(renderer, samples_of(renderer, DIALOGUE, train_on="last_assistant")[0]) == "42<|im_end|>"
    (everything,) = samples_of(renderer, DIALOGUE, train_on="all")
    assert everything.is_trainable_T.all()
    (cut,) = samples_of(renderer, [*DIALOGUE, {"role": "user", "content": "Thanks"}])
    assert "Thanks" not in renderer.tokenizer.decode(cut.ids_T.tolist())


def test_sources_tell_who_wrote_what_even_where_words_repeat_the_template() -> None:
    renderer = renderer_of("chatml")
    messages = [
        {"role": "system", "content": "system"},
        {"role": "user", "content": "user"},
        {"role": "assistant", "content": "user"},
        {"role": "user", "content": "assistant"},
        {"role": "assistant", "content": "a"},
    ]
    (sample,) = samples_of(renderer, messages, first_trained=4)
    assert shown(renderer, sample, Source.SYSTEM) == "system"
    assert shown(renderer, sample, Source.USER) == "userassistant"
    assert shown(renderer, sample, Source.ASSISTANT) == "usera<|im_end|>"
    starts = np.flatnonzero(sample.sources_T == Source.USER)
    assert renderer.tokenizer.decode(sample.ids_T[: starts[0]].tolist()).endswith("<|im_start|>user\n")
    between = "<|im_end|>\n<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n"
    assert shown(renderer, sample, Source.TEMPLATE) == f"<|im_start|>system\n{between}{between}\n"


def test_text_parts_are_joined_into_one_content() -> None:
    renderer = renderer_of("chatml")
    parts = [{"role": "user", "content": [{"type": "text", "text": "What "}, {"type": "text", "text": "now?"}]}]
    answer = [{"role": "assistant", "content": [{"type": "text", "text": "This."}]}]
    joined = [{"role": "user", "content": "What now?"}, {"role": "assistant", "content": "This."}]
    assert samples_of(renderer, parts + answer)[0].ids_T.tolist() == samples_of(renderer, joined)[0].ids_T.tolist()


def test_a_tokenizer_that_encodes_a_prompt_differently_alone_gives_one_sample_a_turn() -> None:
    """GPT-2's pattern cuts the two newlines of a header apart when a word follows, and joins them at the end."""
    renderer = renderer_of("llama3_form")
    samples = samples_of(renderer, DIALOGUE)
    assert [shown(renderer, sample) for sample in samples] == ["Paris.<|eot_id|>", "42<|eot_id|>"]
    for turn, sample in zip((1, 3), samples, strict=True):
        (prompt,) = renderer.render_prompts([(DIALOGUE[:turn], None)])
        assert sample.ids_T[: len(prompt)].tolist() == prompt.tolist()


def test_a_tokenizer_that_keeps_a_headers_newlines_together_gives_one_sample() -> None:
    """As the patterns of Llama 3 and Qwen do."""
    backend = Tokenizer.from_str(build_backend("bytes"))
    pattern = Regex(r"\s*[\r\n]+|\s+(?!\S)| ?\S+|\s+")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(pattern, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    form = FORMS[INDEX["llama3_form"]]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=form.bos, eos_token=form.eos)
    (sample,) = samples_of(build_renderer(tokenizer, form.template, {}), DIALOGUE)
    assert tokenizer.decode(sample.ids_T[sample.is_trainable_T]) == "Paris.<|eot_id|>42<|eot_id|>"


def test_an_answer_whose_first_blank_would_join_the_prompt_is_encoded_on_its_own() -> None:
    renderer = renderer_of("chatml")
    (sample,) = samples_of(renderer, [DIALOGUE[0], {"role": "assistant", "content": "\n\n Paris"}])
    assert shown(renderer, sample) == "\n\n Paris<|im_end|>"
    (prompt,) = renderer.render_prompts([([DIALOGUE[0]], None)])
    assert sample.ids_T[: len(prompt)].tolist() == prompt.tolist()


@pytest.mark.parametrize("kind", ["bytes", "legacy", "metaspace"])
def test_there_is_at_most_one_bos_on_every_path(kind: str) -> None:
    for form in FORMS:
        tokenizer = build_tokenizer(kind, FORMS.index(form))
        renderer = build_renderer(tokenizer, form.template, form.arguments)
        messages = [{"role": "user", "content": f"{form.bos or ''}Hi"}, {"role": "assistant", "content": "Yo"}]
        paths = [
            *samples_of(renderer, messages),
            *samples_of(renderer, messages, train_on="all"),
            renderer.render_document(f"{form.bos or ''}Hi"),
        ]
        paths_ids = [*(sample.ids_T for sample in paths), renderer.render_prompts([(messages[:1], None)])[0]]
        counts = [int((ids == tokenizer.bos_token_id).sum()) for ids in paths_ids]
        writes = int("bos_token" in form.template and form.bos is not None)
        assert counts == [writes, writes, int(form.bos is not None), writes], form.name


def test_a_template_that_writes_bos_twice_is_refused() -> None:
    renderer = renderer_for("{{ bos_token }}" + FORMS[INDEX["mistral_form"]].template, "mistral_form")
    assert "twice" in error_of(renderer, DIALOGUE).found
    with pytest.raises(TemplateError, match="twice"):
        renderer.render_prompts([(DIALOGUE[:1], None)])


def test_a_generation_prompt_that_no_turn_begins_with_is_refused_with_the_cure() -> None:
    renderer = renderer_of("deepseek_r1_form", think_first=True)
    error = error_of(renderer, DIALOGUE)
    assert "<think>" in error.found and "Paris." in error.found
    assert "training variant" in error.cure


def test_reasoning_under_a_prompt_that_closes_thinking_is_refused() -> None:
    renderer = renderer_of("qwen3_form", enable_thinking=False)
    messages = [DIALOGUE[0], {"role": "assistant", "content": "Paris.", "reasoning_content": "Easy."}]
    assert "generation prompt goes on" in error_of(renderer, messages).found


def test_a_template_without_a_stop_token_is_refused_with_the_cure() -> None:
    template = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    template += "{% if add_generation_prompt %}assistant: {% endif %}"
    error = error_of(renderer_for(template), DIALOGUE)
    assert "no stop token" in error.found
    assert "chat.template: plain" in error.cure


def test_text_that_the_template_writes_after_the_stop_token_is_refused() -> None:
    template = FORMS[INDEX["chatml"]].template.replace('"<|im_end|>\\n"', '"<|im_end|> over\\n"')
    assert "' over\\n'" in error_of(renderer_for(template), DIALOGUE).found


def test_a_format_without_stop_tokens_is_refused() -> None:
    tokenizer = build_tokenizer("bytes", INDEX["chatml"])
    with pytest.raises(TemplateError, match="no stop token"):
        Renderer(
            HuggingFaceTextTokenizer(tokenizer),
            ChatFormat(tokenizer.chat_template, {}, ()),
            InProcessRenderer(TemplateProgram(tokenizer.chat_template)),
        )


def test_rows_that_cannot_be_trained_on_leave_their_batch_mates_alone() -> None:
    renderer = renderer_of("gemma_form")
    bad: list[list[dict[str, Any]]] = [
        [],
        [{"role": "user", "content": "no answer"}],
        [{"role": "system", "content": "no"}, {"role": "assistant", "content": "x"}],
        [{"role": "user", "content": [{"type": "image"}]}, {"role": "assistant", "content": "x"}],
        [{"role": "user", "content": "half \ud83d of a pair"}, {"role": "assistant", "content": "x"}],
        [DIALOGUE[0], *DIALOGUE[:2]],
    ]
    requests = [SampleRequest(messages) for row in bad for messages in (row, DIALOGUE)]
    results = renderer.render_samples(requests)
    assert all(isinstance(result, list) for result in results[1::2])
    errors = results[0::2]
    assert all(isinstance(error, TemplateError) and error.cure for error in errors)
    texts = ["no assistant", "no assistant", "no system role", "type 'image'", "U+D83D", "take turns"]
    assert [text in error.found for text, error in zip(texts, errors, strict=True)] == [True] * 6  # type: ignore[union-attr]


def test_a_prompt_that_cannot_be_rendered_names_its_index() -> None:
    renderer = renderer_of("gemma_form")
    good = ([DIALOGUE[0]], None)
    with pytest.raises(TemplateError, match="at prompt 1"):
        renderer.render_prompts([good, ([{"role": "system", "content": "no"}], None)])
    with pytest.raises(TemplateError, match="at prompt 0"):
        renderer.render_prompts([([{"role": "user", "content": [{"type": "image"}]}], None)])
    assert len(renderer.render_prompts([good, good])) == 2


def test_a_document_is_trained_whole_and_its_control_text_stays_text() -> None:
    tokenizer = build_tokenizer("bytes", INDEX["mistral_form"])
    renderer = renderer_of("mistral_form")
    text = "<s>It ends</s> here. 🦩"
    sample = renderer.render_document(text)
    assert sample.ids_T[[0, -1]].tolist() == [tokenizer.bos_token_id, tokenizer.eos_token_id]
    assert not {tokenizer.bos_token_id, tokenizer.eos_token_id} & set(sample.ids_T[1:-1].tolist())
    assert renderer.tokenizer.decode(sample.ids_T.tolist()) == f"<s>{text}</s>"
    assert sample.is_trainable_T.all() and (sample.sources_T == Source.DOCUMENT).all()
    bare = renderer.render_document(text, add_bos=False, add_eos=False)
    assert bare.ids_T.tolist() == sample.ids_T[1:-1].tolist()
    with pytest.raises(TemplateError, match="lone surrogate"):
        renderer.render_document("\ud800")


def test_the_formats_hash_moves_with_every_field() -> None:
    base = ChatFormat("t", {"eos_token": "</s>"}, (2,), "2024-07-26", {"enable_thinking": False})
    others = [
        ChatFormat("u", {"eos_token": "</s>"}, (2,), "2024-07-26", {"enable_thinking": False}),
        ChatFormat("t", {"eos_token": "<s>"}, (2,), "2024-07-26", {"enable_thinking": False}),
        ChatFormat("t", {"eos_token": "</s>"}, (2, 3), "2024-07-26", {"enable_thinking": False}),
        ChatFormat("t", {"eos_token": "</s>"}, (2,), "2024-07-27", {"enable_thinking": False}),
        ChatFormat("t", {"eos_token": "</s>"}, (2,), "2024-07-26", {}),
    ]
    assert len({base.hash, *(other.hash for other in others)}) == 6
    assert base.hash == ChatFormat("t", {"eos_token": "</s>"}, (2,), "2024-07-26", {"enable_thinking": False}).hash
