"""SMT-LIB formulas from untrusted text: read by a parser of its own, allowed by a list, and written again.

A symbol is allowed where it is declared by the task, bound by a quantifier or `let` around it, a literal, or one of
`OPERATORS`. Commands, quoted symbols (`|x|`), strings, keywords (`:named`), annotations (`!`) and comments are not
in the language at all, so nothing that is written out can be anything but a formula.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

MAX_CHARACTERS = 4000
MAX_DEPTH = 60
OPERATORS = frozenset(
    (
        "true", "false", "not", "and", "or", "xor", "=>", "=", "distinct", "ite",
        "+", "-", "*", "/", "div", "mod", "abs", "<", "<=", ">", ">=", "to_real", "to_int", "is_int", "select", "store",
        "concat", "bvnot", "bvneg", "bvand", "bvor", "bvxor", "bvadd", "bvsub", "bvmul", "bvudiv", "bvurem", "bvsdiv",
        "bvsrem", "bvshl", "bvlshr", "bvashr", "bvult", "bvule", "bvugt", "bvuge", "bvslt", "bvsle", "bvsgt", "bvsge",
    )
)  # fmt: skip
SORTS = frozenset(("Bool", "Int", "Real"))
_TOKEN = re.compile(r"\s*([()]|[^\s()\";|:!]+)")
_SYMBOL = re.compile(r"[A-Za-z_~@$%^&*+=<>.?/\-][A-Za-z0-9_~@$%^&*+=<>.?/\-']*")
_LITERAL = re.compile(r"(?:0|[1-9]\d{0,99})(?:\.\d{1,100})?|#x[0-9a-fA-F]{1,64}|#b[01]{1,256}")
_RESERVED = frozenset(
    (
        "assert", "check-sat", "check-sat-assuming", "declare-const", "declare-fun", "declare-sort",
        "declare-datatypes", "define-fun", "define-fun-rec", "define-sort", "echo", "eval", "exit", "get-model",
        "get-value", "include", "pop", "push", "reset", "set-info", "set-logic", "set-option", "simplify", "apply",
        "let", "forall", "exists", "match", "par", "as", "_",
    )
)  # fmt: skip
Node = str | list[Any]


class SmtError(ValueError):
    """A text that is not in the language; the message says what is wrong."""


@dataclass(slots=True)
class Vocabulary:
    """What a task declares: its sorts, the constants that literals can be values of, and the names of all functions."""

    sorts: set[str] = field(default_factory=set)
    constants: set[str] = field(default_factory=set)
    functions: set[str] = field(default_factory=set)


def read_declarations(text: str) -> tuple[Vocabulary, str]:
    """Return what a task declares, and its commands written again.

    Raises:
        SmtError: Another command than a declaration or definition, or one that is malformed.
    """
    vocabulary, written = Vocabulary(), []
    for node in _parse(text, 10 * MAX_CHARACTERS):
        match node:
            case ["declare-sort", str(name), "0"]:
                vocabulary.sorts.add(_check_new(name, vocabulary))
            case ["declare-const", str(name), sort]:
                _check_sort(sort, vocabulary)
                _declare(name, sort, vocabulary)
            case ["declare-fun", str(name), list(arguments), sort]:
                for one in [*arguments, sort]:
                    _check_sort(one, vocabulary)
                _declare(name, "" if arguments else sort, vocabulary)
            case ["define-fun", str(name), list(arguments), sort, body]:
                bound = _read_variables(arguments, vocabulary)
                _check_sort(sort, vocabulary)
                _check_node(body, vocabulary, bound, 0)
                vocabulary.functions.add(_check_new(name, vocabulary))
            case _:
                raise SmtError(f"{_write(node)[:60]!r} is no declaration")
        written.append(_write(node))
    return vocabulary, "\n".join(written)


def _declare(name: str, sort: Node, vocabulary: Vocabulary) -> None:
    vocabulary.functions.add(_check_new(name, vocabulary))
    if (isinstance(sort, str) and sort in SORTS) or (isinstance(sort, list) and sort[:2] == ["_", "BitVec"]):
        vocabulary.constants.add(name)


def read_formula(text: str, vocabulary: Vocabulary) -> str:
    """Return one formula, written again.

    Raises:
        SmtError: It is none, holds a symbol that is not allowed, or is too large or deep.
    """
    nodes = list(_parse(text, MAX_CHARACTERS))
    if len(nodes) != 1:
        raise SmtError(f"{len(nodes)} formulas where one is wanted")
    _check_node(nodes[0], vocabulary, frozenset(), 0)
    return _write(nodes[0])


def read_model_line(text: str, vocabulary: Vocabulary) -> tuple[str, str]:
    """Return the constant that an equation gives a value to ("" where it is a function's), and the equation.

    Raises:
        SmtError: It is no `(= term literal)`.
    """
    formula = read_formula(text, vocabulary)
    match next(_parse(formula, MAX_CHARACTERS)):
        case ["=", str(name), value] if name in vocabulary.constants and _is_value(value):
            return name, formula
        case ["=", [str(name), *arguments], value] if name in vocabulary.functions and all(
            _is_value(part) for part in (*arguments, value)
        ):
            return "", formula
    raise SmtError(f"{text!r:.60} is no equation of a declared name and a literal")


def _is_value(node: Node) -> bool:
    match node:
        case str(text):
            return text in ("true", "false") or _LITERAL.fullmatch(text) is not None
        case ["-", inner]:
            return _is_value(inner)
        case ["/", top, bottom]:
            return _is_value(top) and _is_value(bottom)
    return False


def _parse(text: str, most: int) -> Iterator[Node]:
    """Yield the expressions of a text."""
    if len(text) > most:
        raise SmtError(f"{len(text)} characters, more than {most}")
    stack: list[list[Node]] = [[]]
    position, text = 0, text.rstrip()
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None:
            raise SmtError(f"{text[position:].lstrip()[:1]!r} is not in the language")
        position = found.end()
        if found[1] == "(":
            stack.append([])
            if len(stack) > MAX_DEPTH:
                raise SmtError(f"nested deeper than {MAX_DEPTH}")
        elif found[1] == ")":
            if len(stack) == 1:
                raise SmtError("a bracket is closed that was not opened")
            done = stack.pop()
            stack[-1].append(done)
        else:
            stack[-1].append(found[1])
    if len(stack) > 1:
        raise SmtError("a bracket is not closed")
    yield from stack[0]


def _write(node: Node) -> str:
    return node if isinstance(node, str) else f"({' '.join(_write(part) for part in node)})"


def _check_new(name: str, vocabulary: Vocabulary) -> str:
    taken = OPERATORS | SORTS | _RESERVED | vocabulary.functions | vocabulary.sorts
    if _SYMBOL.fullmatch(name) is None or name in taken:
        raise SmtError(f"{name!r} cannot be declared")
    return name


def _check_sort(sort: Node, vocabulary: Vocabulary) -> None:
    match sort:
        case str(name) if name in SORTS or name in vocabulary.sorts:
            return
        case ["_", "BitVec", str(width)] if width.isdecimal() and 1 <= int(width[:6]) <= 256:
            return
        case ["Array", index, element]:
            _check_sort(index, vocabulary)
            _check_sort(element, vocabulary)
            return
    raise SmtError(f"{_write(sort)[:60]!r} is no sort")


def _read_variables(pairs: list[Any], vocabulary: Vocabulary) -> frozenset[str]:
    names = set()
    for pair in pairs:
        match pair:
            case [str(name), sort]:
                _check_sort(sort, vocabulary)
                names.add(_check_new(name, vocabulary))
            case _:
                raise SmtError(f"{_write(pair)[:60]!r} is no variable with a sort, or hides a declared name")
    return frozenset(names)


def _check_node(node: Node, vocabulary: Vocabulary, bound: frozenset[str], depth: int) -> None:
    """Raise unless a node is a term of allowed symbols."""
    if depth > MAX_DEPTH:
        raise SmtError(f"nested deeper than {MAX_DEPTH}")
    match node:
        case str(name):
            known = name in OPERATORS or name in vocabulary.functions or name in bound
            if not known and not _LITERAL.fullmatch(name):
                raise SmtError(f"the symbol {name!r:.60} is not allowed")
        case ["forall" | "exists", [_, *_] as pairs, body]:
            _check_node(body, vocabulary, bound | _read_variables(pairs, vocabulary), depth + 1)
        case ["let", [_, *_] as pairs, body]:
            names = set()
            for pair in pairs:
                match pair:
                    case [str(name), value]:
                        _check_node(value, vocabulary, bound, depth + 1)
                        names.add(_check_new(name, vocabulary))
                    case _:
                        raise SmtError("a let without names and values, or one that hides a declared name")
            _check_node(body, vocabulary, bound | names, depth + 1)
        case [str(), _, *_]:
            for part in node:
                _check_node(part, vocabulary, bound, depth + 1)
        case _:
            raise SmtError(f"{_write(node)[:60]!r} is no term")
