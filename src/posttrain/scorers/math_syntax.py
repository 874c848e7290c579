r"""Reads plainly written LaTeX or keyboard mathematics into a small tree; computes nothing.

A tree is a list, as JSON has it, so that it travels to a sandboxed process:

    ["num", "3/4"]  ["sym", "x_1"]  ["const", "pi" | "e" | "i" | "inf"]  ["add", a, b, ...]  ["mul", a, b, ...]
    ["div", a, b]  ["inv", a]  ["neg", a]  ["pow", a, b]  ["root", n, a]  ["fn", name, a]  ["log", base, a]  ["abs", a]
    ["fact", a]  ["binom", n, k]  ["floor", a]  ["ceil", a]

Juxtaposition multiplies, at the precedence of `*` and `/`, from the left. What has two readings has none here:
`2x3`, `\sqrt23`, `2\frac32` (a mixed number needs a proper fraction), words, sums, integrals and limits, which are
computations left to do.
"""

from __future__ import annotations

import re
from fractions import Fraction

from posttrain.scorers.math_gates import MAX_DEPTH, TooCostly, Tree, Unreadable

_TOKEN = re.compile(
    r'\s*(?:(?P<number>\d+\.?\d*(?:[eE][+-]?\d{1,5}(?![\d.a-zA-Z]))?|\.\d+(?:[eE][+-]?\d{1,5}(?![\d.a-zA-Z]))?)'
    r'|(?P<command>\\[a-zA-Z]+|\\[{}|])|(?P<word>[a-zA-Z]+)|(?P<quoted>"[^"]*")|(?P<sign>[-+*/^_!|(){}\[\]\',=<>:;°%$?&])'
    r"|(?P<other>\S))"
)  # fmt: skip
_FUNCTIONS = (
    "sin", "cos", "tan", "cot", "sec", "csc", "asin", "acos", "atan", "arcsin", "arccos", "arctan", "sinh", "cosh",
    "tanh", "ln", "log", "exp", "lg",
)  # fmt: skip
_INVERSES = {"sin": "asin", "cos": "acos", "tan": "atan"}
_GREEK = re.compile(
    r"(?:alpha|beta|[gG]amma|[dD]elta|(?:var)?epsilon|zeta|eta|(?:var)?theta|Theta|iota|kappa|[lL]ambda|mu|nu|[xX]i|rho"
    r"|[sS]igma|tau|[uU]psilon|(?:var)?phi|Phi|chi|[pP]si|[oO]mega|Pi|ell)"
)
_UNFINISHED = {
    "sum": "a sum", "prod": "a product", "int": "an integral", "lim": "a limit", "iint": "an integral",
    "oint": "an integral", "max": "a maximum", "min": "a minimum", "gcd": "a gcd", "lcm": "an lcm",
}  # fmt: skip
_CLOSERS = {"(": ")", "[": "]", "{": "}", r"\{": r"\}"}
_WORDS = ("sqrt", "pi", "infinity", "infty", "inf", "oo", "abs", *_FUNCTIONS, *_UNFINISHED)
_MAX_EXPONENT_DIGITS = 4
_MAX_LETTERS = 4
"""Letters side by side that may be a product of variables; more are a word."""

Token = tuple[str, str, bool]
"""Kind, text, and whether white space stands before it."""


def split_tokens(text: str) -> list[Token]:
    """Return the tokens of a plainly written text; words are split into known names and single letters.

    Raises:
        Unreadable: A character that belongs to no notation known here.
    """
    tokens: list[Token] = []
    for found in _TOKEN.finditer(text):
        kind = str(found.lastgroup)
        value = found[kind]
        spaced = found.start(kind) > found.start()
        if kind == "other":
            raise Unreadable(f"the character {value!r}")
        if kind == "word":
            tokens += _split_word(value, spaced)
        elif kind == "quoted":
            tokens.append(_read_quoted(value[1:-1].strip(), spaced))
        else:
            tokens.append((kind, value, spaced))
    return tokens


def _split_word(word: str, spaced: bool) -> list[Token]:
    if word in _WORDS:
        return [("command", "\\" + {"oo": "infty", "inf": "infty", "infinity": "infty"}.get(word, word), spaced)]
    if len(word) <= 7 and word[:-1] in _FUNCTIONS:  # `sinx`
        return [("command", "\\" + word[:-1], spaced), ("letter", word[-1], False)]
    if len(word) > _MAX_LETTERS:
        raise Unreadable(f"the word {word!r}")
    return _split_letters(word, spaced)


def _split_letters(word: str, spaced: bool) -> list[Token]:
    return [("letter", letter, spaced and number == 0) for number, letter in enumerate(word)]


def _read_quoted(word: str, spaced: bool) -> Token:
    if word in _WORDS:
        return ("command", "\\" + word, spaced)
    raise Unreadable(f"the words {word!r}")


class Parser:
    """Reads the tokens of one expression, from left to right, one method for each precedence.

    `finish()` returns the tree of all tokens.

    Raises:
        Unreadable: The tokens have no reading, or more than one.
        TooCostly: They are nested too deeply.
    """

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.position = 0
        self.depth = 0
        self.bars = 0

    def finish(self) -> Tree:
        """Return the tree of the whole expression."""
        if not self.tokens:
            raise Unreadable("nothing stands there")
        tree = self.read_sum()
        if self.position < len(self.tokens):
            raise Unreadable(f"{self.peek()!r} is out of place")
        return tree

    def peek(self) -> str:
        """Return the next token's text, empty at the end."""
        return self.tokens[self.position][1] if self.position < len(self.tokens) else ""

    def kind(self) -> str:
        """Return the next token's kind, empty at the end."""
        return self.tokens[self.position][0] if self.position < len(self.tokens) else ""

    def take(self) -> str:
        """Return the next token's text and go on."""
        if self.position >= len(self.tokens):
            raise Unreadable("it ends in the middle")
        self.position += 1
        return self.tokens[self.position - 1][1]

    def expect(self, sign: str) -> None:
        """Go past a sign that must come next."""
        found = self.take()
        if found != sign:
            raise Unreadable(f"{found!r} stands where {sign!r} should")

    def read_sum(self) -> Tree:
        """Read terms joined by plus and minus."""
        terms = [self.read_term()]
        while self.peek() in ("+", "-"):
            is_minus = self.take() == "-"
            term = self.read_product()
            terms.append(["neg", term] if is_minus else term)
        return terms[0] if len(terms) == 1 else ["add", *terms]

    def read_term(self) -> Tree:
        """Read a term with at most one sign before it."""
        if self.peek() == "-":
            self.take()
            return ["neg", self.read_product()]
        if self.peek() == "+":
            self.take()
        return self.read_product()

    def read_product(self) -> Tree:
        """Read factors joined by signs or by standing side by side."""
        factors = [self.read_factor()]
        while True:
            sign = self.peek()
            if sign in ("*", "/"):
                self.take()
                is_minus = self.peek() == "-"  # 3 * -2, as people type it
                if is_minus:
                    self.take()
                factor = self.read_factor()
                factor = ["neg", factor] if is_minus else factor
                factors.append(["inv", factor] if sign == "/" else factor)
            elif self.starts_factor():
                factors.append(self.read_neighbour(factors[-1]))
            else:
                break
        if len(factors) == 2 and factors[1][0] == "inv":
            return ["div", factors[0], factors[1][1]]
        return factors[0] if len(factors) == 1 else ["mul", *factors]

    def starts_factor(self) -> bool:
        """Return whether what comes next can be multiplied by standing there."""
        if self.peek() == "|":
            return self.bars == 0
        return self.kind() in ("number", "letter") or self.peek() in ("(", "{", "[") or self.is_value_command()

    def is_value_command(self) -> bool:
        """Return whether a command begins a value, rather than close or separate one."""
        return self.kind() == "command" and self.peek() not in (
            r"\}", r"\|", r"\rfloor", r"\rceil", r"\rangle", r"\cup", r"\cap", r"\in", r"\or", r"\pm", r"\mp", r"\ne",
            r"\approx", r"\ldots", r"\to", r"\end",
        )  # fmt: skip

    def read_neighbour(self, before: Tree) -> Tree:
        """Read a factor that follows another without a sign; a number follows a closing bracket only."""
        if self.kind() == "number" and self.tokens[self.position - 1][1] != ")":
            raise Unreadable(f"{self.peek()!r} follows without a sign")
        if before[0] == "num" and self.peek() == r"\frac" and self.tokens[self.position - 1][0] == "number":
            fraction = self.read_factor()
            if _is_plain_fraction(fraction):
                raise Unreadable("a whole number before a fraction that is not proper")
            return fraction
        return self.read_factor()

    def read_factor(self) -> Tree:
        """Read an atom with at most one exponent, one factorial and one degree sign."""
        tree = self.read_mixed() or self.read_atom()
        signs = ""
        while (sign := self.peek()) in ("!", "^", "°"):
            if sign in signs:
                raise Unreadable(f"{sign!r} twice in a row")
            self.take()
            signs += sign
            if sign == "°":
                tree = ["mul", tree, ["div", ["const", "pi"], ["num", "180"]]]
            else:
                tree = ["fact", tree] if sign == "!" else ["pow", tree, self.read_exponent()]
        return tree

    def read_mixed(self) -> Tree | None:
        r"""Read `1\frac{4}{5}` as one and four fifths, where that is what stands there."""
        window = [token[1] for token in self.tokens[self.position : self.position + 8]]
        if len(window) < 8 or self.kind() != "number" or window[1:3] != [r"\frac", "{"]:
            return None
        whole, top, bottom = window[0], window[3], window[6]
        if [window[4], window[5], window[7]] != ["}", "{", "}"] or not (
            whole.isdigit() and top.isdigit() and bottom.isdigit()
        ):
            return None
        if not 0 < int(top) < int(bottom):
            return None
        self.position += 8
        return ["num", str(int(whole) + Fraction(int(top), int(bottom)))]

    def read_exponent(self) -> Tree:
        """Read what stands after `^`: a group, or one signed atom."""
        if self.peek() in ("-", "+"):
            is_minus = self.take() == "-"
            atom = self.read_atom()
            return ["neg", atom] if is_minus else atom
        return self.read_atom()

    def read_group(self) -> Tree:
        """Read a bracketed expression, whose brackets must match."""
        opener = self.take()
        if opener not in _CLOSERS:
            raise Unreadable(f"{opener!r} stands where a bracket should")
        bars, self.bars = self.bars, 0
        tree = self.read_sum()
        self.bars = bars
        self.expect(_CLOSERS[opener])
        return tree

    def read_argument(self) -> Tree:
        r"""Read the argument of `\frac` or `\sqrt`: a group, or one character."""
        if self.peek() == "{":
            return self.read_group()
        if self.kind() == "number":
            if len(self.peek()) > 1:
                raise Unreadable(f"{self.peek()!r} without braces")
            return self.read_atom()
        return self.read_group() if self.peek() == "(" else self.read_atom()

    def read_atom(self) -> Tree:
        """Read a number, a variable, a constant, a bracket or a command with its arguments."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise TooCostly(f"nested deeper than {MAX_DEPTH}")
        tree = self._read_atom()
        self.depth -= 1
        return tree

    def _read_atom(self) -> Tree:
        kind, text = self.kind(), self.peek()
        if kind == "number":
            return ["num", _read_number(self.take())]
        if kind == "letter":
            return self.read_letter()
        if text in ("(", "{", "["):
            return self.read_group()
        if text == "|":
            self.take()
            self.bars += 1
            tree: Tree = ["abs", self.read_sum()]
            self.bars -= 1
            self.expect("|")
            return tree
        if kind == "command":
            return read_command(self)
        raise Unreadable(f"{text!r} is out of place" if text else "it ends in the middle")

    def read_letter(self) -> Tree:
        """Read a variable with its subscript and primes; `e` and `i` alone are constants."""
        name = self.take() + self.read_subscript()
        while self.peek() == "'":
            name += self.take()
        return ["const", name] if name in ("e", "i") else ["sym", name]

    def read_subscript(self) -> str:
        """Read `_1`, `_{12}` or `_n` as part of a name."""
        if self.peek() != "_":
            return ""
        self.take()
        if self.peek() != "{":
            return "_" + self.take()
        self.take()
        parts = []
        while self.peek() not in ("}", ""):
            parts.append(self.take())
        self.expect("}")
        return "_" + "".join(parts)


def read_command(parser: Parser) -> Tree:
    """Read a command and its arguments.

    Raises:
        Unreadable: A command that is not known here.
    """
    name = parser.take()[1:]
    if _GREEK.fullmatch(name):
        return ["sym", name + parser.read_subscript()]
    if name in ("pi", "infty"):
        return ["const", "inf" if name == "infty" else "pi"]
    if name == "frac":
        return ["div", parser.read_argument(), parser.read_argument()]
    if name == "binom":
        return ["binom", parser.read_argument(), parser.read_argument()]
    if name == "sqrt":
        return _read_root(parser)
    if name == "abs":
        return ["abs", parser.read_group()]
    if name in ("lfloor", "lceil"):
        tree = parser.read_sum()
        parser.expect("\\r" + name[1:])
        return [name[1:], tree]
    if name in _FUNCTIONS:
        return _read_function(parser, name)
    if name in _UNFINISHED:
        raise Unreadable(f"{_UNFINISHED[name]} that is left to compute")
    raise Unreadable(f"the command \\{name}")


def _read_root(parser: Parser) -> Tree:
    degree: Tree = ["num", "2"]
    if parser.peek() == "[":
        degree = parser.read_group()
    elif parser.peek() == "^":
        raise Unreadable("a root with an exponent before its argument")
    return ["root", degree, parser.read_argument()]


def _read_function(parser: Parser, name: str) -> Tree:
    name = {"arcsin": "asin", "arccos": "acos", "arctan": "atan"}.get(name, name)
    base: Tree | None = ["num", "10"] if name in ("log", "lg") else None
    if parser.peek() == "_" and name == "log":
        parser.take()
        base = parser.read_group() if parser.peek() == "{" else parser.read_atom()
    exponent: Tree | None = None
    if parser.peek() == "^":
        parser.take()
        exponent = parser.read_exponent()
        if exponent == ["neg", ["num", "1"]] and name in _INVERSES:
            name, exponent = _INVERSES[name], None
    argument = _read_function_argument(parser)
    tree: Tree = ["log", base, argument] if base is not None else ["fn", name, argument]
    return tree if exponent is None else ["pow", tree, exponent]


def _read_function_argument(parser: Parser) -> Tree:
    """Read a bracket, or the product that follows up to a sign or another function: `sin 2x cos x` is two."""
    if parser.peek() in ("(", "{", "["):
        return parser.read_group()
    argument = parser.read_factor()
    while parser.starts_factor() and parser.kind() != "number" and parser.peek() not in ("(", "["):
        if parser.kind() == "command" and parser.peek()[1:] in _FUNCTIONS:
            break
        argument = ["mul", argument, parser.read_factor()]
    return argument


def _read_number(text: str) -> str:
    mantissa, _, exponent = text.lower().partition("e")
    if len(exponent.lstrip("+-")) > _MAX_EXPONENT_DIGITS:
        raise TooCostly(f"an exponent of {exponent}")
    value = Fraction(mantissa if not mantissa.endswith(".") else mantissa[:-1])
    power = int(exponent or "0")
    if abs(power) > 1000:
        raise TooCostly(f"an exponent of {power}")
    return str(value * Fraction(10) ** power)


def _is_plain_fraction(tree: Tree) -> bool:
    return tree[0] == "div" and tree[1][0] == "num" and tree[2][0] == "num"


def parse_expression(text: str) -> Tree:
    """Return the tree of a plainly written expression.

    Raises:
        Unreadable: It has no reading here, or more than one.
        TooCostly: It is nested too deeply.
    """
    return Parser(split_tokens(text)).finish()
