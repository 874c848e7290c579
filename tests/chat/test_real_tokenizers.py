"""Real tokenizers and real conversations; and stock templates where `trl` is installed."""

from __future__ import annotations

import gzip
import importlib.util
import json
import re
from datetime import date
from pathlib import Path
from typing import Any

import jinja2
import pytest
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

from posttrain.chat.rendering import SampleRequest
from posttrain.core.errors import TemplateError
from posttrain.core.records import RenderedSample
from tests.chat.formats import FORMS, build_backend, build_renderer

TEMPLATES = {form.name: form.template for form in FORMS}
REAL = {
    "llama": ("tiny-llama-stories260k/hf/tokenizer.json", "<s>", "</s>"),
    "gpt2": ("tokenizers/gpt2_tokenizer.json", "<|endoftext|>", "<|endoftext|>"),
    "neox": ("tokenizers/gpt_neox_20b_tokenizer.json", "<|endoftext|>", "<|endoftext|>"),
}


def read_conversations(folder: Path, num_rows: int) -> list[list[dict[str, Any]]]:
    """Return real prompt-and-response rows, two of them a conversation."""
    with gzip.open(folder / "instruct" / "dolly_hhrlhf_train_small.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line, _ in zip(file, range(2 * num_rows), strict=False)]
    turns = [
        [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["response"]}] for row in rows
    ]
    return [one + two for one, two in zip(turns[::2], turns[1::2], strict=True)]


def trained_texts(renderer: Any, samples: list[RenderedSample]) -> str:
    return "".join(renderer.tokenizer.decode(s.ids_T[s.is_trainable_T].tolist()) for s in samples)


@pytest.mark.real_data
@pytest.mark.parametrize("name", sorted(REAL))
@pytest.mark.parametrize("template", ["plain", "zephyr_form", "mistral_form"])
def test_real_conversations_under_real_tokenizers_train_exactly_their_answers(
    name: str, template: str, real_data: Path
) -> None:
    path, bos, eos = REAL[name]
    unknown = "<unk>" if name == "llama" else None
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(real_data / path), bos_token=bos, eos_token=eos, pad_token=eos, unk_token=unknown
    )
    tokenizer.chat_template = TEMPLATES[template]
    renderer = build_renderer(tokenizer, TEMPLATES[template], {})
    conversations = read_conversations(real_data, 40)
    results = renderer.render_samples([SampleRequest(messages) for messages in conversations])
    blank = " " if template == "mistral_form" else ""
    for messages, samples in zip(conversations, results, strict=True):
        assert isinstance(samples, list), samples
        assert trained_texts(renderer, samples) == "".join(blank + m["content"] + eos for m in messages[1::2])
        prompt = tokenizer.apply_chat_template(
            messages[:3], add_generation_prompt=True, tokenize=True, return_dict=True
        )
        assert renderer.render_prompts([(messages[:3], None)])[0].tolist() == prompt["input_ids"]
        last = samples[-1]
        assert last.ids_T[: len(prompt["input_ids"])].tolist() == prompt["input_ids"]


STOCK_CONTROL = re.compile(r"<[|｜/]?[a-z_A-Z0-9▁]+[|｜]?>|<[|｜][^<>\s'\"{}]{1,40}[|｜]>|\[/?[A-Z_]{2,20}\]")
NO_STOP = {"glm4moe"}
"""A stock template that ends a turn with the header of the next one."""
OTHER_PROMPT = re.compile("deepseek|nemotron")
"""Stock templates whose generation prompt opens a thinking block that a plain answer is rendered without."""


def stock_templates() -> list[Path]:
    """Return the templates that `trl` ships, found without importing it."""
    found = importlib.util.find_spec("trl")
    folders = list(found.submodule_search_locations or []) if found else []
    return [path for folder in folders for path in sorted((Path(folder) / "chat_templates").glob("*.jinja"))]


def test_stock_templates_are_rendered_and_masked_where_trl_is_installed() -> None:
    paths = stock_templates()
    if not paths:
        pytest.skip("trl is not installed: its stock templates cannot be rendered")
    messages = [
        {"role": "user", "content": "Hi there"},
        {"role": "assistant", "content": "Hello you"},
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "It is 4."},
    ]
    for path in paths:
        source = path.read_text(encoding="utf-8")
        backend = Tokenizer.from_str(build_backend("bytes"))
        control = sorted({*STOCK_CONTROL.findall(source), "<|im_end|>"})
        backend.add_special_tokens([AddedToken(text, normalized=False) for text in control if "think" not in text])
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
        tokenizer.chat_template = source
        try:
            theirs = tokenizer.apply_chat_template(messages, tokenize=False)
        except jinja2.TemplateError:
            theirs = ""
        if "Hello you" not in theirs:  # a template for images, which takes no plain strings
            continue
        renderer = build_renderer(tokenizer, source, {}, date.today().isoformat())
        everything, samples = renderer.render_samples(
            [SampleRequest(messages, train_on="all"), SampleRequest(messages)]
        )
        assert isinstance(everything, list), (path.name, everything)
        assert renderer.tokenizer.decode(everything[0].ids_T.tolist()) == theirs, path.name
        if isinstance(samples, TemplateError):
            expected = "no stop token" if path.stem in NO_STOP else "generation prompt goes on"
            assert expected in samples.found, path.name
            assert path.stem in NO_STOP or OTHER_PROMPT.search(path.stem), (path.name, samples)
            continue
        trained = trained_texts(renderer, samples)
        stop = renderer.tokenizer.decode(renderer.format.stop_ids[:1])
        assert trained.count(stop) == 2 and trained.endswith("It is 4." + stop), path.name
        assert "Hello you" + stop in trained and "Hi there" not in trained, path.name
