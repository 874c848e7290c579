"""Formulas of first-order logic: how they are written, and as what they are kept.

    formula   false, P, P(t, ...), t = t, t != t, ~A, A & B, A | B, A -> B, A <-> B, forall x. A, exists x y. A, (A)
    term      a name, or f(t, ...)

Binding, tightest first: `~`, `&`, `|`, `->`, `<->`; a quantifier's body reaches as far to the right as it can. `&` and
`|` group to the left, `->` and `<->` to the right. `forall x P(x)` needs no dot after one variable. Also read: ¬ ∧ ∨ →
↔ ∀ ∃ ⊥ ≠, `not`, `and`, `or`, `/\\`, `\\/`, `=>`, `<=>`, `!`.

A formula is a nested tuple; bound variables are counted from the inside (de Bruijn), so that equal tuples are formulas
equal up to the names of bound variables, and a term put in their place is never captured:

    ("false",)  ("atom", name, terms)  ("=", s, t)  ("not", A)  ("and" | "or" | "implies" | "iff", A, B)
    ("forall" | "exists", A)           terms: ("bound", depth)  ("name", name, terms)

Example: `forall x. P(x, a)` is `("forall", ("atom", "P", (("bound", 0), ("name", "a", ()))))`.
"""

from __future__ import annotations

import re
from typing import Any

Formula = tuple[Any, ...]
Term = tuple[Any, ...]
MAX_FORMULA_CHARACTERS = 2000
MAX_DEPTH = 60
FALSE: Formula = ("false",)
_TOKEN = re.compile(r"\s*(<->|<=>|->|=>|!=|/\\|\\/|[()&|~!=,.∧∨→↔¬∀∃⊥≠]|[A-Za-z_][A-Za-z0-9_']*)")
_SPELLINGS = {
    "∧": "&", "/\\": "&", "and": "&", "∨": "|", "\\/": "|", "or": "|", "→": "->", "=>": "->", "↔": "<->",
    "<=>": "<->", "¬": "~", "!": "~", "not": "~", "∀": "forall", "∃": "exists", "⊥": "false", "≠": "!=",
}  # fmt: skip
_BINARY = {"<->": ("iff", 1), "->": ("implies", 2), "|": ("or", 3), "&": ("and", 4)}
_WORDS = frozenset(("forall", "exists", "false", "not", "and", "or"))


class FormulaError(ValueError):
    """A text that is no formula; the message says where."""


def parse_formula(text: str) -> Formula:
    """Return the formula that the whole of a text is.

    Raises:
        FormulaError: It is none, or larger than `MAX_FORMULA_CHARACTERS` or deeper than `MAX_DEPTH`.
    """
    if len(text) > MAX_FORMULA_CHARACTERS:
        raise FormulaError(f"a formula of {len(text)} characters, more than {MAX_FORMULA_CHARACTERS}")
    parser = _Parser(_split_tokens(text))
    formula = parser.read_formula(0, (), 0)
    if parser.position < len(parser.tokens):
        raise FormulaError(f"{parser.tokens[parser.position]!r} after the end of a formula in {text.strip()!r:.80}")
    return formula


def _split_tokens(text: str) -> list[str]:
    tokens, position, text = [], 0, text.rstrip()
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None:
            raise FormulaError(f"{text[position:].strip()[:1]!r} has no meaning in a formula")
        tokens.append(_SPELLINGS.get(found[1], found[1]))
        position = found.end()
    return tokens


class _Parser:
    """A recursive descent over the tokens; `bound` are the variables of the quantifiers around, innermost last."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.position = 0

    def peek(self) -> str:
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def take(self, wanted: str = "") -> str:
        token = self.peek()
        if not token or (wanted and token != wanted):
            raise FormulaError(
                f"{token!r} where {wanted or 'more'!r} should stand" if token else "a formula ends early"
            )
        self.position += 1
        return token

    def take_name(self) -> str:
        token = self.take()
        if not (token[0].isalpha() or token[0] == "_") or token in _WORDS:
            raise FormulaError(f"{token!r} where a name should stand")
        return token

    def read_formula(self, level: int, bound: tuple[str, ...], depth: int) -> Formula:
        """Read a formula whose connectives bind at least as tightly as `level`."""
        if depth > MAX_DEPTH:
            raise FormulaError(f"a formula nested deeper than {MAX_DEPTH}")
        left = self.read_simple(bound, depth)
        while (entry := _BINARY.get(self.peek())) is not None and entry[1] >= level:
            self.take()
            is_right = entry[1] <= 2
            right = self.read_formula(entry[1] if is_right else entry[1] + 1, bound, depth + 1)
            left = (entry[0], left, right)
            depth += 1  # a chain of connectives nests to the left
            if depth > MAX_DEPTH:
                raise FormulaError(f"a formula nested deeper than {MAX_DEPTH}")
        return left

    def read_simple(self, bound: tuple[str, ...], depth: int) -> Formula:
        token = self.peek()
        if depth > MAX_DEPTH:
            raise FormulaError(f"a formula nested deeper than {MAX_DEPTH}")
        if token == "~":
            self.take()
            return ("not", self.read_simple(bound, depth + 1))
        if token in ("forall", "exists"):
            return self.read_quantified(bound, depth)
        if token == "(":
            self.take()
            formula = self.read_formula(0, bound, depth + 1)
            self.take(")")
            return formula
        if token == "false":
            self.take()
            return FALSE
        return self.read_atom(bound, depth)

    def read_quantified(self, bound: tuple[str, ...], depth: int) -> Formula:
        kind = self.take()
        names = [self.take_name()]
        end = self.position
        while end < len(self.tokens) and self.tokens[end].isidentifier() and self.tokens[end] not in _WORDS:
            end += 1
        if self.tokens[end : end + 1] in (["."], [","]):  # several variables stand before a dot only
            while self.peek() not in (".", ","):
                names.append(self.take_name())
            self.take()
        formula = self.read_formula(0, (*bound, *names), depth + len(names))
        for _ in names:
            formula = (kind, formula)
        return formula

    def read_atom(self, bound: tuple[str, ...], depth: int) -> Formula:
        name = self.take_name()
        terms = self.read_terms(bound, depth) if self.peek() == "(" else ()
        if self.peek() not in ("=", "!="):
            if name in bound and not terms:
                raise FormulaError(f"the variable {name!r} where a formula should stand")
            return ("atom", name, terms)
        sign = self.take()
        left = self.make_term(name, terms, bound)
        equation = ("=", left, self.read_term(bound, depth + 1))
        return equation if sign == "=" else ("not", equation)

    def read_terms(self, bound: tuple[str, ...], depth: int) -> tuple[Term, ...]:
        self.take("(")
        terms = [self.read_term(bound, depth + 1)]
        while self.peek() == ",":
            self.take()
            terms.append(self.read_term(bound, depth + 1))
        self.take(")")
        return tuple(terms)

    def read_term(self, bound: tuple[str, ...], depth: int) -> Term:
        if depth > MAX_DEPTH:
            raise FormulaError(f"a term nested deeper than {MAX_DEPTH}")
        name = self.take_name()
        return self.make_term(name, self.read_terms(bound, depth) if self.peek() == "(" else (), bound)

    @staticmethod
    def make_term(name: str, terms: tuple[Term, ...], bound: tuple[str, ...]) -> Term:
        if name in bound and not terms:
            return ("bound", bound[::-1].index(name))
        return ("name", name, terms)
