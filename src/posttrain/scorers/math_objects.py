r"""Sets, tuples, intervals, matrices, equations and single expressions, read from text and matched part by part.

An object is a list as JSON has it, so that it travels to a sandboxed process:

    ["expr", tree, unit]  ["words", text]  ["tuple", [object, ...]]  ["list", [...]]
    ["set", [object, ...]]
    ["matrix", [[object, ...], ...]]  ["union", [["interval", is_low_closed, low, high, is_high_closed], ...]]
    ["relation", "=" | "<" | "<=", left, right]  ["based", digits, base]

Endpoints and sides are trees of `math_syntax`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import chain
from typing import Any

from posttrain.scorers.math_gates import Tree, Unreadable
from posttrain.scorers.math_syntax import parse_expression
from posttrain.scorers.math_units import split_tail
from posttrain.scorers.math_values import write_mixed, write_repeating

Object = list[Any]
Equal = Callable[[Tree, Tree], bool | None]
"""Whether two trees are equal, None where that cannot be decided here."""
MAX_PARTS = 64
_OPEN, _CLOSE = "([{", ")]}"
_MATRIX = re.compile(r"\\begin\{[pbvV]?(?:matrix|array)\}(?:\{[lcr|]*\})?(?P<body>.*)\\end\{[pbvV]?(?:matrix|array)\}")
_BASED = re.compile(r"(-?[0-9A-F]+) ?_ ?(?:\{ ?(\d{1,2}) ?\}|(\d{1,2}))")
LABEL = re.compile(
    r"(?:[a-zA-Z]|\\(?!pi\b|infty\b|sqrt\b)[a-zA-Z]+)(?: ?_ ?(?:\w|\{[\w, ]+\}))?'*(?: ?\([^=()]{1,20}\))?"
    r'|(?!not\b|no\b|false\b)[a-zA-Z]{2,20}|"(?!not\b|no\b|false\b)[a-zA-Z][^"]{0,40}"|\\(?:angle|triangle) ?[A-Z]{1,3}'
    r'|\| ?[A-Z]{1,2} ?\|'
)  # fmt: skip
"""What may stand before an equals sign without being part of the answer: `x`, `f(2)`, `AB`, `\\text{area}`."""


def split_top(text: str, separators: str | re.Pattern[str]) -> list[str]:
    """Return the pieces between separators that stand outside of all brackets, an escaped brace being one.

    Args:
        text: A plainly written text.
        separators: Single characters, or a pattern that is tried at each place.
    """
    pattern = re.compile("[" + re.escape(separators) + "]") if isinstance(separators, str) else separators
    pieces, depth, start, position = [], 0, 0, 0
    while position < len(text):
        character = text[position]
        if depth == 0 and (found := pattern.match(text, position)) and found[0]:
            pieces.append(text[start:position])
            start = position = found.end()
            continue
        depth += (character in _OPEN) - (character in _CLOSE)
        position += 1
    pieces.append(text[start:])
    return [piece.strip() for piece in pieces]


def strip_label(text: str) -> tuple[str, str]:
    """Return a text without `x =` before it, and that label, empty where there is none."""
    sides = split_top(text, _EQUALS)
    if len(sides) == 2 and LABEL.fullmatch(sides[0]) and not LABEL.fullmatch(sides[1]):
        return sides[1], sides[0]
    return text, ""


_EQUALS = re.compile(r"(?<![<>!:=])=(?!=)")
_LIST = re.compile(r'[,;]|"[, ]*(?:and|or)[, ]*"|,? ?\\or(?![a-zA-Z])|(?<![a-zA-Z])(?:and|or)(?![a-zA-Z])')


def read_relation(text: str) -> Object:
    """Read an equation or an inequality of two sides.

    Raises:
        Unreadable: There are not two sides, or one of them has no reading.
    """
    signs = re.findall(r"<=|>=|<|>|=", text)
    sides = split_top(text, re.compile(r"<=|>=|<|>|="))
    if len(sides) != 2 or len(signs) != 1:
        raise Unreadable("an equation of two sides was asked")
    left, right = (parse_expression(side) for side in sides)
    sign = signs[0]
    if sign in (">", ">="):
        left, right, sign = right, left, sign.replace(">", "<")
    return ["relation", sign, left, right]


def read_element(text: str) -> Object:
    """Read one element of a set or a tuple: an expression, degrees, a tuple inside, or plain words.

    Raises:
        Unreadable: It is none of them.
    """
    text = text.strip()
    if re.fullmatch(r"[+-]?0\d+", text):
        raise Unreadable(f"{text!r}, digits after a comma: write thousands as 1{{,}}000")
    if is_enclosed(text, "(", ")") and len(split_top(text[1:-1], ",")) > 1:
        return read_tuple(text)
    if _MATRIX.fullmatch(text):
        return read_tuple(text)
    words = text.replace('"', "").strip()
    if re.fullmatch(r"[a-zA-Z][a-zA-Z -]+", words) and '"' in text:
        return ["words", " ".join(words.casefold().split())]
    try:
        number, unit = split_tail(text)
        if unit != "degree":
            number, unit = text, ""
        return ["expr", parse_expression(write_mixed(write_repeating(number))), unit]
    except Unreadable:
        if re.fullmatch(r"[a-zA-Z][a-zA-Z -]+", words):
            return ["words", " ".join(words.casefold().split())]
        raise


def read_set(text: str) -> Object:
    r"""Read `\{1, 2\}`, a bare list (`1, 2` or `x = 1 or x = 2`), or a value with a plus-minus sign as a set.

    Raises:
        Unreadable: An element has no reading, or there are too many.
    """
    text = strip_label(text)[0]
    if re.fullmatch(r"\\emptyset|\\\{ *\\\}|\{ *\}", text):
        return ["set", []]
    text = re.sub(r"^[a-zA-Z] ?\\in(?![a-zA-Z]) ?", "", text)
    if is_enclosed(text, r"\{", r"\}"):
        text = text[2:-2].strip()
    elif is_enclosed(text, "{", "}"):
        text = text[1:-1].strip()
    elif text.startswith('"') and text.endswith('"') and text.count('"') == 2:
        text = text[1:-1]
    pieces = [piece for piece in split_top(text, _LIST) if piece]
    elements = [read_element(sign) for piece in pieces for sign in _expand_signs(strip_label(piece)[0])]
    if not elements or len(elements) > MAX_PARTS:
        raise Unreadable(f"{len(elements)} elements, of at most {MAX_PARTS}")
    return ["set", elements]


def _expand_signs(text: str) -> list[str]:
    if r"\pm" not in text:
        return [text]
    plus = text.replace(r"\pm", "+").replace(r"\mp", "-")
    minus = text.replace(r"\pm", "-").replace(r"\mp", "+")
    return [plus, minus]


def read_tuple(text: str) -> Object:
    r"""Read `(1, 2)`, `\langle 1, 2 \rangle`, a bare list in order, or a matrix with its rows.

    Raises:
        Unreadable: It is none of them, or a part has no reading.
    """
    sides = split_top(text, _EQUALS)
    if len(sides) == 2:  # (x, y) = (1, 2)
        labels = split_top(sides[0].strip("()"), ",")
        if not all(LABEL.fullmatch(label) for label in labels):
            raise Unreadable("an equation where a tuple was asked")
        text = sides[1]
    matrix = _MATRIX.fullmatch(text)
    if matrix:
        rows = [row for row in re.split(r"\\\\(?:\[[^\]]*\])?", matrix["body"]) if row.strip()]
        cells = [[read_element(cell) for cell in row.split("&")] for row in rows]
        if len({len(row) for row in cells}) != 1 or len(cells) * len(cells[0]) > MAX_PARTS:
            raise Unreadable("a matrix whose rows differ in length, or that is too large")
        return ["matrix", cells]
    kind = "list" if is_enclosed(text, "[", "]") else "tuple"
    for opener, closer in (("(", ")"), ("[", "]"), (r"\langle", r"\rangle")):
        if is_enclosed(text, opener, closer):
            text = text[len(opener) : -len(closer)]
            break
    parts = split_top(text, ",")
    if not 1 < len(parts) <= MAX_PARTS:
        raise Unreadable(f"{len(parts)} parts where a tuple of 2 to {MAX_PARTS} was asked")
    return [kind, [read_element(part) for part in parts]]


def is_enclosed(text: str, opener: str, closer: str) -> bool:
    """Return whether the first bracket closes with the last, and nothing stands outside."""
    if not (text.startswith(opener) and text.endswith(closer) and len(text) >= len(opener) + len(closer)):
        return False
    depth = 0
    for position, character in enumerate(text):
        depth += (character in _OPEN) - (character in _CLOSE)
        if depth == 0 and character in _CLOSE and position < len(text) - 1:
            return False
    return True


def read_interval(text: str) -> Object:
    r"""Read an interval, a union of them, an inequality in one variable, or all real numbers.

    `(2, 3]`, `x \in (2, 3]`, `2 < x <= 3`, `x < 2 or x > 3`, `(-\infty, 2) \cup (3, \infty)`, `\mathbb{R}`.

    Raises:
        Unreadable: It is none of them, or an endpoint has no reading.
    """
    text = re.sub(r"^[a-zA-Z] ?\\in(?![a-zA-Z]) ?", "", strip_label(text)[0])
    if is_enclosed(text, r"\{", r"\}"):
        builder = re.fullmatch(r"\\\{ ?([a-zA-Z]) ?[|:] ?(.*?) ?\\\}", text)
        text = builder[2] if builder else text
    if re.fullmatch(r'\\mathbb ?\{? ?R ?\}?|"?(?:all )?reals?(?: numbers?)?"?', text, re.IGNORECASE):
        return ["union", [["interval", False, ["neg", ["const", "inf"]], ["const", "inf"], False]]]
    pieces = split_top(
        text, re.compile(r'\\cup(?![a-zA-Z])|U(?= ?[(\[])|"or"|\\or(?![a-zA-Z])|(?<![a-zA-Z])or(?![a-zA-Z])')
    )
    if len(pieces) > MAX_PARTS:
        raise Unreadable(f"a union of {len(pieces)} intervals")
    return ["union", [part for piece in pieces for part in _read_piece(piece)]]


def _read_piece(text: str) -> list[Object]:
    if re.search(r"[<>]", text):
        return [_read_inequality(text)]
    if is_enclosed(text, r"\{", r"\}"):
        points = [parse_expression(part) for part in split_top(text[2:-2], ",")]
        return [["interval", True, point, point, True] for point in points]
    if len(text) < 5 or text[0] not in "([]" or text[-1] not in ")][":
        raise Unreadable("not an interval")
    inner = split_top(text[1:-1], ",")
    if len(inner) != 2:
        raise Unreadable("an interval has two endpoints")
    low, high = (parse_expression(part.removeprefix("+").strip()) for part in inner)
    return [["interval", text[0] == "[", low, high, text[-1] == "]"]]


def _read_inequality(text: str) -> Object:
    signs = re.findall(r"<=|>=|<|>", text)
    sides = split_top(text, re.compile(r"<=|>=|<|>"))
    if signs and signs[0][0] == ">":  # read every chain from small to large
        signs, sides = [sign.replace(">", "<") for sign in reversed(signs)], sides[::-1]
    if any(sign[0] == ">" for sign in signs) or len(sides) not in (2, 3):
        raise Unreadable("an inequality whose signs point both ways")
    low: Tree = ["neg", ["const", "inf"]]
    high: Tree = ["const", "inf"]
    is_variable = [bool(re.fullmatch(r"[a-zA-Z]", side)) for side in sides]
    if is_variable.count(True) != 1 or (len(sides) == 3 and not is_variable[1]):
        raise Unreadable("an inequality that is not of one variable alone")
    middle = is_variable.index(True)
    is_low_closed = is_high_closed = False
    if middle > 0:
        low, is_low_closed = parse_expression(sides[middle - 1]), signs[middle - 1] == "<="
    if middle < len(sides) - 1:
        high, is_high_closed = parse_expression(sides[middle + 1]), signs[middle] == "<="
    return ["interval", is_low_closed, low, high, is_high_closed]


def read_based(text: str) -> Object | None:
    """Return digits with a base (`52_8`), or None where that is not what stands there."""
    found = _BASED.fullmatch(text)
    if not found:
        return None
    base = int(found[2] or found[3])
    if not 2 <= base <= 36 or any(int(digit, 36) >= base for digit in found[1].strip("-")):
        raise Unreadable(f"digits that base {base} does not have")
    sign = "-" if found[1].startswith("-") else ""
    return ["based", sign + (found[1].strip("-").lstrip("0") or "0"), base]


def match(gold: Object, answer: Object, equal: Equal) -> bool | None:
    """Return whether two objects are the same, with `equal` for their trees; None where a tree decides and cannot.

    Sets and unions are compared without order or repetition, tuples and matrices place by place.
    """
    if gold[0] != answer[0]:
        return False
    kind = gold[0]
    if kind == "expr":
        return equal(gold[1], answer[1]) if gold[2] == answer[2] else False
    if kind in ("words", "based"):
        return bool(gold == answer)
    if kind in ("set", "union"):
        return _match_unordered(gold[1], answer[1], equal)
    if kind in ("tuple", "list"):
        return _match_ordered(gold[1], answer[1], equal)
    if kind == "matrix":
        if (len(gold[1]), len(gold[1][0])) != (len(answer[1]), len(answer[1][0])):
            return False
        return _match_ordered(list(chain(*gold[1])), list(chain(*answer[1])), equal)
    if kind == "interval":
        if (gold[1], gold[4]) != (answer[1], answer[4]):
            return False
        return _all([equal(gold[2], answer[2]), equal(gold[3], answer[3])])
    if gold[1] != answer[1]:
        return False
    return True if gold == answer else None  # relations are for `math_algebra`


def _all(verdicts: list[bool | None]) -> bool | None:
    if False in verdicts:
        return False
    return None if None in verdicts else True


def _match_ordered(gold: list[Object], answer: list[Object], equal: Equal) -> bool | None:
    if len(gold) != len(answer):
        return False
    return _all([match(left, right, equal) for left, right in zip(gold, answer, strict=True)])


def _match_unordered(gold: list[Object], answer: list[Object], equal: Equal) -> bool | None:
    """Every element of one side is on the other, and the other way round: repetition does not count."""
    verdicts: list[bool | None] = []
    for ones, others in ((gold, answer), (answer, gold)):
        for one in ones:
            found = [match(one, other, equal) for other in others]
            verdicts.append(True if True in found else None if None in found else False)
    return _all(verdicts)
