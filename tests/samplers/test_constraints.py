"""What is drawn under a constraint matches it, ends only where it may, and keeps the shares of what is allowed."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from tokenizers import Tokenizer

from posttrain.core.errors import ModelError, RecipeError, SamplerError
from posttrain.core.sampling import SamplingSettings, TokenConstraint
from posttrain.kernels.drawing import check_drawn, compute_uniforms, draw_tokens
from posttrain.samplers.constraints import CompiledConstraint, ConstraintCompiler
from tests.chat.formats import build_backend

KINDS = ["bytes", "legacy", "metaspace"]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "kind": {"enum": ["cat", "döner", 'a "quoted" one']},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "scores": {
            "type": "array",
            "items": {"type": "number", "multipleOf": 1, "minimum": -9, "maximum": 99},
            "maxItems": 3,
        },
        "isAlive": {"type": "boolean"},
    },
    "required": ["name", "kind", "age", "scores"],
    "additionalProperties": False,
}
COMPACT = {"x-guidance": {"whitespace_flexible": False}, **SCHEMA}
SUM = 'start: term ("+" term){0,4}\nterm: NUMBER | "(" NUMBER "-" NUMBER ")"\nNUMBER: /[0-9]{1,3}/'


class Words:
    """A tokenizer with its compiler, and draws under a constraint from random logits."""

    def __init__(self, text: str, padding: int = 0) -> None:
        self.tokenizer = Tokenizer.from_str(text)
        self.size = self.tokenizer.get_vocab_size() + padding
        self.compiler = ConstraintCompiler(text, self.size)
        self.stop = self.size - padding - 1

    def id_of(self, text: str) -> int:
        (token,) = self.tokenizer.encode(text, add_special_tokens=False).ids
        return token

    def compile(self, kind: Any, text: str, stop_ids: Sequence[int] | None = None) -> CompiledConstraint:
        return self.compiler.compile(TokenConstraint(kind, text), [self.stop] if stop_ids is None else stop_ids)

    def draw(self, compiled: CompiledConstraint, B: int = 24, steps: int = 160, seed: int = 0) -> list[str | None]:
        """The texts of rows that came to the stop token; None of those that did not."""
        settings = SamplingSettings(max_new_tokens=steps, temperature=1.0)
        generator = torch.Generator().manual_seed(seed)
        texts = [compiled.start() for _ in range(B)]
        ids: list[list[int]] = [[] for _ in range(B)]
        is_open = [True] * B
        for step in range(steps):
            logits = torch.randn(B, self.size, generator=generator) * 3
            uniforms = compute_uniforms(torch.arange(B) + 100 * seed, torch.full((B,), step))
            drawn = draw_tokens(logits, settings, uniforms, allowed_BW=compiled.fill_masks(texts))
            check_drawn(drawn)
            for row, token in enumerate(drawn.ids_B.tolist()):
                if not is_open[row]:
                    continue
                if token == self.stop:
                    is_open[row] = False
                    assert texts[row].may_end
                else:
                    texts[row].advance(token)
                    ids[row].append(token)
        decoded = [self.decode(row) for row in ids]
        return [None if is_open[row] else decoded[row] for row in range(B)]

    def decode(self, ids: list[int]) -> str:
        """The text behind an ordinary token, whose own text is cut off, so that no blank is lost."""
        anchor = self.tokenizer.encode("a", add_special_tokens=False).ids
        whole = self.tokenizer.decode([*anchor, *ids], skip_special_tokens=False)
        return whole[len(self.tokenizer.decode(anchor, skip_special_tokens=False)) :]


def allowed_of(compiled: CompiledConstraint, text: Any) -> set[int]:
    (words,) = compiled.fill_masks([text]).tolist()
    return {32 * place + bit for place, word in enumerate(words) for bit in range(32) if word >> bit & 1}


def strip_strings(text: str) -> str:
    return re.sub(r'"(\\.|[^"\\])*"', '""', text)


@pytest.fixture(scope="module", params=KINDS)
def words(request: pytest.FixtureRequest) -> Words:
    return Words(build_backend(request.param))


def test_json_drawn_under_a_schema_is_valid_whenever_it_ends(words: Words) -> None:
    found = words.draw(words.compile("json_schema", json.dumps(COMPACT)))
    ended = [text for text in found if text is not None]
    assert len(ended) >= 20
    for text in ended:
        jsonschema.validate(json.loads(text), SCHEMA)
        assert strip_strings(text) == re.sub(r"\s", "", strip_strings(text))
    assert len({json.loads(text)["kind"] for text in ended}) == 3


def test_json_may_hold_white_space_but_no_endless_runs_of_it(words: Words) -> None:
    ended = [text for text in words.draw(words.compile("json_schema", json.dumps(SCHEMA)), steps=400) if text]
    assert len(ended) >= 10
    between = [strip_strings(text) for text in ended]
    assert any(re.search(r"\s", text) for text in between)
    assert not any(re.search(r"\s{21}", text) for text in between)
    for text in ended:
        jsonschema.validate(json.loads(text), SCHEMA)


@pytest.mark.parametrize(
    "pattern",
    [
        r"[ab]{2,6}c?",
        r"(\d{3}-){2}\d{4}",
        r"a/b\\[0-9]{2}/?",
        r"x\n?y|z{1,5}",
        r"(ja|nein|vielleicht)!{0,3}",
        r"[äöü€]{1,4}",
    ],
)
def test_text_drawn_under_a_regular_expression_matches_all_of_it(words: Words, pattern: str) -> None:
    found = words.draw(words.compile("regex", pattern), steps=60)
    assert None not in found and len(set(found)) > 5
    assert [text for text in found if re.fullmatch(pattern, text or "") is None] == []


def test_an_empty_regular_expression_allows_the_end_alone() -> None:
    words = Words(build_backend("bytes"))
    compiled = words.compile("regex", "")
    assert allowed_of(compiled, compiled.start()) == {words.stop}


def test_text_drawn_under_a_grammar_is_in_its_language(words: Words) -> None:
    found = words.draw(words.compile("lark", SUM), steps=60)
    term = r"(\d{1,3}|\(\d{1,3}-\d{1,3}\))"
    assert None not in found
    assert [text for text in found if re.fullmatch(rf"{term}(\+{term}){{0,4}}", text or "") is None] == []
    assert any("(" in (text or "") for text in found) and any("+" in (text or "") for text in found)


def test_masks_allow_what_the_text_may_go_on_with_worked_by_hand() -> None:
    """Under `ab?` the first token is a; then b or the end; then the end."""
    words = Words(build_backend("bytes"))
    a, b = words.id_of("a"), words.id_of("b")
    compiled = words.compile("regex", "ab?")
    text, beside = compiled.start(), compiled.start()
    assert allowed_of(compiled, text) - {a} == {
        token for token in range(words.size) if words.tokenizer.decode([token]) == "ab"
    }
    text.advance(a)
    assert allowed_of(compiled, text) == {b, words.stop} and text.may_end
    text.advance(b)
    assert allowed_of(compiled, text) == {words.stop}
    masks = compiled.fill_masks([beside, text])
    assert not beside.may_end and a in allowed_of(compiled, beside)
    assert torch.equal(masks, torch.cat([compiled.fill_masks([beside]), compiled.fill_masks([text])]))


def test_stop_tokens_are_allowed_only_where_the_text_may_end_whatever_their_own_text_is() -> None:
    """The token b stops, so it is no text; the tokenizer's own control tokens are never text and stop nothing."""
    words = Words(build_backend("bytes"))
    a, b = words.id_of("a"), words.id_of("b")
    compiled = words.compile("regex", "[ab]{3}", [b, words.stop])
    text = compiled.start()
    for _ in range(3):
        assert allowed_of(compiled, text) & {b, words.stop} == set()
        text.advance(a)
    assert allowed_of(compiled, text) == {b, words.stop}


def test_logits_past_the_tokenizers_end_are_never_allowed() -> None:
    words = Words(build_backend("bytes"), padding=45)
    compiled = words.compile("regex", "(?s:.){0,9}")
    masks = compiled.fill_masks([compiled.start()])
    assert masks.shape == (1, -(-words.size // 32)) and masks.dtype == torch.int32
    assert max(allowed_of(compiled, compiled.start())) < words.size - 45


def test_what_is_drawn_under_a_mask_follows_the_shares_of_what_is_allowed() -> None:
    """Each of two steps: an even grid of uniform numbers hits an allowed token as often as its share says."""
    words, count = Words(build_backend("bytes")), 4000
    compiled = words.compile("regex", "[a-m]{4}(no)?")
    logits = torch.randn(1, words.size, generator=torch.Generator().manual_seed(3)) * 2
    text = compiled.start()
    settings = SamplingSettings(max_new_tokens=1, temperature=1.0)
    for step in range(2):
        allowed = sorted(allowed_of(compiled, text))
        shares = logits[0, allowed].double().softmax(-1)
        grid = (torch.arange(count, dtype=torch.float64) + 0.5) / count
        masks = compiled.fill_masks([text]).expand(count, -1)
        drawn = draw_tokens(logits.expand(count, -1), settings, grid, allowed_BW=masks)
        found = torch.bincount(drawn.ids_B, minlength=words.size)
        assert found.sum() == found[allowed].sum() and len(allowed) > 10
        assert float((found[allowed] - shares * count).abs().max()) <= 1.01
        text.advance(allowed[step])


@pytest.mark.parametrize(
    ("kind", "text", "reason"),
    [
        ("regex", "[ab", "unclosed character class"),
        ("regex", "(?=a)b", "look-around"),
        ("lark", "start: nothing", "unknown name"),
        ("lark", "start: (", "constraint's lark"),
        ("json_schema", "{not json", "constraint's json_schema"),
        ("json_schema", '{"type": "strin"}', "strin"),
        ("json_schema", '{"not": {"type": "string"}}', "not"),
        ("json_schema", "false", "Unsatisfiable"),
    ],
)
def test_a_constraint_that_cannot_be_used_is_refused_with_the_reason(kind: Any, text: str, reason: str) -> None:
    with pytest.raises(RecipeError, match=rf"(?s)E-RECIPE at constraint: .*{reason}.*expected: .*cure: ") as caught:
        Words(build_backend("bytes")).compile(kind, text)
    assert len(caught.value.found) < 400 and "\n" not in caught.value.found


def test_a_constraint_needs_a_stop_token_that_the_model_can_draw() -> None:
    words = Words(build_backend("bytes"))
    for stop_ids in ([], [words.size]):
        with pytest.raises(RecipeError, match="without a stop token"):
            words.compile("regex", "a", stop_ids)


def test_a_tokenizer_with_more_tokens_than_the_model_has_logits_is_refused() -> None:
    text = build_backend("bytes")
    compiler = ConstraintCompiler(text, Tokenizer.from_str(text).get_vocab_size() - 1)
    with pytest.raises(ModelError, match="vocab size too small"):
        compiler.compile(TokenConstraint("regex", "a"), [0])


def test_a_token_that_is_not_allowed_is_an_error_and_not_a_text() -> None:
    words = Words(build_backend("bytes"))
    text = words.compile("regex", "ab").start()
    with pytest.raises(SamplerError, match="does not fit the constraint"):
        text.advance(words.id_of("b"))


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("path", "stop"),
    [
        ("tiny-llama-stories260k/hf/tokenizer.json", "</s>"),
        ("tokenizers/gpt2_tokenizer.json", "<|endoftext|>"),
        ("tokenizers/gpt_neox_20b_tokenizer.json", "<|endoftext|>"),
    ],
)
def test_real_tokenizers_draw_what_matches(path: str, stop: str, real_data: Path) -> None:
    words = Words((real_data / path).read_text(encoding="utf-8"))
    words.stop = words.tokenizer.token_to_id(stop)
    pattern = r"[a-zäé€]{1,5}( [a-z]{1,9}){2}\."
    found = words.draw(words.compile("regex", pattern), B=8, steps=50)
    assert None not in found
    assert [text for text in found if re.fullmatch(pattern, text or "") is None] == []
    ended = [text for text in words.draw(words.compile("json_schema", json.dumps(COMPACT)), B=8) if text]
    assert len(ended) >= 6
    for text in ended:
        jsonschema.validate(json.loads(text), SCHEMA)
