r"""Tokens that a text may go on with under a JSON Schema, a regular expression or a Lark grammar.

A grammar is compiled once and shared by the rows that draw under it; each row follows its own text. Masks are
packed as `kernels.drawing.draw_tokens` takes them. What the library behind it (llguidance) does not know of a
schema or expression it refuses, rather than draw what does not match.

White space between the parts of a JSON text is allowed in runs of up to 20 characters, since a weak model may else
draw nothing but white space. A schema may say otherwise in its own words:
`{"x-guidance": {"whitespace_flexible": false}, "type": "object", ...}` allows none. In regular expressions `\d` is
0 to 9, and `\w` and `\s` are those of Unicode.
Shape letters: B rows, W words of 32 tokens.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import llguidance
import numpy as np
import torch
from llguidance.numpy import fill_next_token_bitmask_par

from posttrain.core.errors import ModelError, RecipeError, SamplerError
from posttrain.core.sampling import TokenConstraint

_WORD_TOKENS = 32
_WHITE_SPACE = r"[ \t\r\n]{1,20}"
_EXPECTED = {
    "json_schema": "a JSON Schema of the keywords that llguidance knows",
    "regex": "a regular expression without look-around or back-references (syntax of Rust's regex crate)",
    "lark": "a Lark grammar with a rule named start (llguidance's variant)",
}


class ConstraintCompiler:
    """Compiles constraints for one tokenizer and one model.

    Args:
        tokenizer_json: The tokenizer as `tokenizers` writes it (the text of tokenizer.json).
        vocab_size: Logits that the model has for each position; those past the tokenizer's own are never allowed.
    """

    def __init__(self, tokenizer_json: str, vocab_size: int) -> None:
        self._tokenizer_json = tokenizer_json
        self._vocab_size = vocab_size

    @cached_property
    def _tokenizer(self) -> llguidance.LLTokenizer:
        """The tokenizer with the prefix tree of its tokens, which takes up to a second to build."""
        try:
            return llguidance.LLTokenizer(self._tokenizer_json, n_vocab=self._vocab_size)
        except ValueError as error:
            raise ModelError(
                f"constraints cannot use the tokenizer: {error}",
                expected=f"a fast tokenizer of at most {self._vocab_size} tokens, the logits of the model",
                cure="use the tokenizer that belongs to the model, or draw without a constraint",
                place="tokenizer",
            ) from error

    @cached_property
    def _executor(self) -> llguidance.LLExecutor:
        return llguidance.LLExecutor()

    def compile(self, constraint: TokenConstraint, stop_ids: Sequence[int]) -> CompiledConstraint:
        """Return a constraint that rows can start under.

        Args:
            constraint: What the text must be.
            stop_ids: Tokens that end a completion: allowed only where the text may end, whatever their own text.

        Raises:
            RecipeError: The schema, expression or grammar cannot be used, or there is no stop token.
            ModelError: The tokenizer cannot be used, or has more tokens than the model has logits.
        """
        stop_ids = [token_id for token_id in stop_ids if token_id < self._vocab_size]
        if not stop_ids:
            raise RecipeError(
                "a constraint without a stop token, so that its text could not end",
                expected="at least one stop token",
                cure="set ignore_eos to false, or name a token in stop_ids",
                place="constraint",
            )
        matcher = llguidance.LLMatcher(self._tokenizer, _build_grammar(constraint), log_level=0)
        if matcher.is_error():
            raise _describe(constraint, matcher.get_error())
        return CompiledConstraint(self._tokenizer, self._executor, matcher, stop_ids)


def _build_grammar(constraint: TokenConstraint) -> str:
    if constraint.kind == "regex":
        expression = llguidance.regex_to_lark(f"(?:{constraint.text})", "d")
        return llguidance.LLMatcher.grammar_from_lark(f"start: /{expression}/")
    if constraint.kind == "lark":
        return llguidance.LLMatcher.grammar_from_lark(constraint.text)
    try:
        schema = json.loads(constraint.text)
        return llguidance.LLMatcher.grammar_from_json_schema(constraint.text, defaults=_choose_defaults(schema))
    except ValueError as error:
        raise _describe(constraint, str(error)) from error


def _choose_defaults(schema: Any) -> Any:
    """Return the options of a schema that does not name its own: no long runs of white space."""
    if not isinstance(schema, dict):
        return None
    named = schema.get("x-guidance")
    if isinstance(named, dict) and any(name.startswith("whitespace") for name in named):
        return None
    return {"whitespace_pattern": _WHITE_SPACE}


def _describe(constraint: TokenConstraint, reason: str) -> RecipeError:
    lines = [line.strip() for line in reason.splitlines() if line.strip()]
    return RecipeError(
        f"the constraint's {constraint.kind} cannot be used: {'; '.join(lines[:4])}",
        expected=_EXPECTED[constraint.kind],
        cure="correct it, or leave out what is not supported",
        place="constraint",
    )


@dataclass(frozen=True, slots=True)
class ConstrainedText:
    """How far one row's text has come under a constraint.

    Made by `CompiledConstraint.start`, one for each row, whose sampler tells it every token but the stop token.
    `matcher` is the library's own state.

    Example: under the regular expression `ab?` it `may_end` after `a` and after `ab`, not before.
    """

    matcher: llguidance.LLMatcher

    def advance(self, token_id: int) -> None:
        """Follow a token that was drawn under the mask.

        Raises:
            SamplerError: The token was not allowed.
        """
        if not self.matcher.consume_token(token_id):
            raise SamplerError(
                f"token {token_id} does not fit the constraint: {_first_line(self.matcher.get_error())}",
                expected="tokens drawn under the constraint's mask",
                place="constraint",
            )

    @property
    def may_end(self) -> bool:
        """Whether the text is whole as it stands."""
        return self.matcher.is_accepting()


class CompiledConstraint:
    """A grammar that rows start under, and the masks of their next tokens.

    Made by `ConstraintCompiler.compile`. Example: under the regular expression `ab?` with stop token 2, the masks
    of a row that drew `a` allow the token `b` and token 2; of one that drew `ab`, token 2 alone.
    """

    def __init__(
        self,
        tokenizer: llguidance.LLTokenizer,
        executor: llguidance.LLExecutor,
        matcher: llguidance.LLMatcher,
        stop_ids: Sequence[int],
    ) -> None:
        self._executor = executor
        self._matcher = matcher
        self._num_words = -(-tokenizer.vocab_size // _WORD_TOKENS)
        self._stops = [_find_bit(token_id) for token_id in stop_ids]
        self._library_stops = [_find_bit(token_id) for token_id in tokenizer.eos_tokens]

    def start(self) -> ConstrainedText:
        """Return the empty text of one row."""
        return ConstrainedText(self._matcher.deep_copy())

    def fill_masks(self, texts: Sequence[ConstrainedText]) -> torch.Tensor:
        """Return which tokens may follow each row's text: int32 [B, W] in the CPU's memory, token t in bit t % 32.

        Raises:
            SamplerError: The library gave up on a grammar that is too large or ambiguous.
        """
        masks_BW = np.empty((len(texts), self._num_words), dtype=np.int32)
        matchers = [text.matcher for text in texts]
        fill_next_token_bitmask_par(self._executor, [(matcher, row) for row, matcher in enumerate(matchers)], masks_BW)
        for matcher in matchers:
            if matcher.is_error():
                raise SamplerError(
                    f"the constraint gave up: {_first_line(matcher.get_error())}",
                    expected="a grammar of which every step can be parsed",
                    cure="make the schema or grammar smaller or less ambiguous",
                    place="constraint",
                )
        for word, bit in self._library_stops:
            masks_BW[:, word] &= ~bit
        is_ending_B = np.array([matcher.is_accepting() for matcher in matchers], dtype=bool)
        for word, bit in self._stops:
            masks_BW[:, word] = np.where(is_ending_B, masks_BW[:, word] | bit, masks_BW[:, word] & ~bit)
        return torch.from_numpy(masks_BW)


def _find_bit(token_id: int) -> tuple[int, np.int32]:
    """Return the word and the bit of a token."""
    return token_id // _WORD_TOKENS, np.uint32(1 << token_id % _WORD_TOKENS).view(np.int32)


def _first_line(reason: str) -> str:
    return next((line for line in reason.splitlines() if line.strip()), "no reason given")
