"""Templates in the forms of well-known families, and tokenizers built on the spot to go with them."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from posttrain.chat.rendering import ChatFormat, Renderer, build_chat_format
from posttrain.chat.templates import DEFAULT_DATE, PLAIN_TEMPLATE, InProcessRenderer, TemplateProgram
from posttrain.models.text_tokenizer import HuggingFaceTextTokenizer

TEMPLATES = Path(__file__).parent / "templates"
CORPUS = [
    "What is the capital of France? The capital of France is Paris.",
    "user assistant system model tool Tools: User: Assistant: System: \n\n [INST] [/INST] hello there\n",
    "שלום עולם مرحبا 你好 🦩 e\u0301 naïve café — 12 + 30 = 42",
    '{"name": "get_weather", "arguments": {"city": "Paris"}}',
    "Today Date: 26 Jul 2024\n\n Think. <think>\n\n</think>\n\n <tool_call>\n</tool_call>",
]
CONTROL = [
    "<unk>", "<s>", "</s>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>",
    "<|end_header_id|>", "<|eot_id|>", "<start_of_turn>", "<end_of_turn>", "<bos>", "<eos>", "<|system|>", "<|user|>",
    "<|assistant|>", "<|end|>", "<｜User｜>", "<｜Assistant｜>", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>",
]  # fmt: skip
MARKERS = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]


@dataclass(frozen=True)
class Form:
    """A template, the tokens it reads, and what it can show."""

    name: str
    bos: str | None
    eos: str
    turn_end: str
    shows: frozenset[str] = frozenset()
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def template(self) -> str:
        """The Jinja source."""
        if self.name == "plain":
            return PLAIN_TEMPLATE
        return (TEMPLATES / f"{self.name}.jinja").read_text(encoding="utf-8")


ALL = frozenset({"system", "tools", "thinking"})
FORMS = [
    Form("chatml", None, "<|im_end|>", "<|im_end|>", frozenset({"system"})),
    Form("llama3_form", "<|begin_of_text|>", "<|eot_id|>", "<|eot_id|>", frozenset({"system", "tools"})),
    Form("qwen3_form", None, "<|im_end|>", "<|im_end|>", ALL),
    Form("qwen3_form", None, "<|im_end|>", "<|im_end|>", frozenset({"system", "tools"}), {"enable_thinking": False}),
    Form("gemma_form", "<bos>", "<eos>", "<end_of_turn>"),
    Form("mistral_form", "<s>", "</s>", "</s>", frozenset({"system"})),
    Form("phi_form", "<s>", "<|endoftext|>", "<|end|>", frozenset({"system"})),
    Form("zephyr_form", "<s>", "</s>", "</s>", frozenset({"system"})),
    Form("deepseek_r1_form", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜end▁of▁sentence｜>",
         frozenset({"system"})),
    Form("generation_tag", None, "<|im_end|>", "<|im_end|>", frozenset({"system"})),
    Form("plain", "<s>", "</s>", "</s>", ALL),
]  # fmt: skip


def name_of(form: Form) -> str:
    """Return a test id."""
    return form.name + ("-" + "-".join(form.arguments) if form.arguments else "")


def _added(text: str, *, swallows: bool) -> AddedToken:
    return AddedToken(text, special=True, normalized=False, rstrip=swallows)


@functools.cache
def build_backend(kind: str) -> str:
    """Return the JSON of a tokenizer: `bytes`, `nfc`, `swallowing`, `legacy` or `metaspace`.

    `bytes` is a byte-level BPE; `nfc` the same behind Unicode NFC; `swallowing` has control tokens that
    take the white space after them, as Phi's do. `legacy` and `metaspace` are SentencePiece-like with byte
    fallback: the first puts a blank before every piece of text, the second before a text only.
    """
    if kind in ("bytes", "nfc", "swallowing"):
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        tokenizer.train_from_iterator(
            CORPUS, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
        )
        if kind == "nfc":
            tokenizer.normalizer = normalizers.NFC()
    else:
        tokenizer = _train_sentencepiece_like(kind)
    tokenizer.add_special_tokens([_added(text, swallows=kind == "swallowing") for text in CONTROL])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in MARKERS])
    return tokenizer.to_str()


def _train_sentencepiece_like(kind: str) -> Tokenizer:
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    base = Tokenizer(models.BPE())
    base.pre_tokenizer = pre_tokenizers.Metaspace()
    base.train_from_iterator(
        [line.replace("\n", " ") for line in CORPUS], trainers.BpeTrainer(vocab_size=300, show_progress=False)
    )
    learned = sorted(base.get_vocab().items(), key=lambda item: item[1])
    vocabulary = {text: index for index, text in enumerate([*pieces, *(text for text, _ in learned)])}
    merges = [tuple(pair) for pair in json.loads(base.to_str())["model"]["merges"]]
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)  # type: ignore[arg-type]
    )
    strip = [decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(content=" ", left=1, right=0)]
    if kind == "legacy":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), *strip])
    return tokenizer


@functools.cache
def build_tokenizer(kind: str, form_index: int) -> PreTrainedTokenizerFast:
    """Return a transformers tokenizer of a kind with the tokens and the template of a form."""
    form = FORMS[form_index]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(build_backend(kind)),
        bos_token=form.bos,
        eos_token=form.eos,
        pad_token=form.eos,
        unk_token="<unk>" if kind in ("legacy", "metaspace") else None,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = form.template
    return tokenizer


def build_renderer(tokenizer: Any, template: str, arguments: dict[str, Any], date: str = DEFAULT_DATE) -> Renderer:
    """Return a renderer that trusts its template, for a transformers tokenizer."""
    texts = HuggingFaceTextTokenizer(tokenizer)
    program = TemplateProgram(template, {**texts.template_tokens, **arguments}, date)
    template_renderer = InProcessRenderer(program)
    chat_format: ChatFormat = build_chat_format(
        program, template_renderer, texts, eos_ids=[tokenizer.eos_token_id], generation_eos_ids=[]
    )
    return Renderer(texts, chat_format, template_renderer)
