r"""Reads an answer in the one form that its task declares, and says what in it makes it no answer of that form.

| form | what is read | what is not |
| --- | --- | --- |
| `integer` | a whole number in digits: `1,234`, `-7`, `18.00` | `36/2`, `1e3` |
| `number` | a decimal, a fraction of whole numbers, a mixed number, `2 \times 10^3` | a computation |
| `value` | one exact number in any notation: also roots, powers, pi, e, i, small factorials | sums, limits, variables |
| `expression` | one expression, equal for all values of its variables | an equation |
| `equation` | an equation or inequality, up to a constant factor | a value |
| `set` | elements without order: braces, a list, a plus-minus sign | |
| `interval` | an interval, a union, an inequality in one variable | |
| `tuple` | parts in order, a vector or a matrix | |
| `choice` | the letter of an option | two letters |
| `text` | words, without regard to case | |

Of an equation chain (`x = 9 + 3 = 12`) as a value, every side but plain labels must have the same value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

from posttrain.scorers.math_gates import Tree, Unreadable, check_text, measure
from posttrain.scorers.math_objects import (
    LABEL,
    Object,
    is_enclosed,
    read_based,
    read_interval,
    read_relation,
    read_set,
    read_tuple,
    split_top,
)
from posttrain.scorers.math_syntax import parse_expression
from posttrain.scorers.math_text import fold_unicode, group_digits, make_literal, write_plainly
from posttrain.scorers.math_units import split_unit
from posttrain.scorers.math_values import evaluate, read_integer, read_numeral, show, write_mixed, write_repeating

AnswerForm = Literal[
    "value", "number", "integer", "expression", "equation", "set", "interval", "tuple", "choice", "text"
]
ANSWER_FORMS: tuple[AnswerForm, ...] = get_args(AnswerForm)
SINGLE_FORMS = ("value", "number", "integer")
_EQUALS = re.compile(r"(?<![<>!:=])=(?!=)")
_OTHER_RELATIONS = re.compile(r"[<>]|\\(?:ne|approx|sim|equiv|in|to|cong|propto)(?![a-zA-Z])|==|:=|!=")
_HEDGES = re.compile(
    r"\\(?:pm|mp|or)(?![a-zA-Z])|(?<![a-zA-Z])(?:or|and|either|maybe|possibly|versus|vs)(?![a-zA-Z])", re.I
)
_PLACE = re.compile(r"(?:option|choice|answer)?\s*[(\[{]?\s*([a-zA-Z])\s*[)\]}]?\s*[.:]?", re.IGNORECASE)
_LETTER_AND_TEXT = re.compile(r"(?:option |choice )?(?:[(\[]\s*([a-zA-Z])\s*[)\]]|([a-zA-Z])\s*[).:])\s*(\S.*)", re.I)
_OTHER_LETTER = re.compile(
    r"[(\[]\s*[a-zA-Z]\s*[)\]]|(?<![a-zA-Z\\])[A-Z][.:)](?!\w)|\b(?:or|and|both|either|not)\b", re.I
)


class Hedged(Unreadable):
    """Several answers where one was asked."""


@dataclass(frozen=True, slots=True)
class Conventions:
    """What a task says of its answers beside their form.

    `unit` is the declared unit's words, empty for none; `is_comma_decimal` whether `1,5` is one and a half;
    `choices` the texts of the options, where a letter may be confirmed by its text.
    """

    unit: str = ""
    is_comma_decimal: bool = False
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """An answer as read: its plain text, its object, and its unit's name and its label where it has them.

    `more` are further sides of an equation chain, each of which must equal the object.
    """

    plain: str
    object: Object
    unit: str = ""
    label: str = ""
    more: tuple[Object, ...] = ()


def read(text: str, form: AnswerForm, conventions: Conventions, *, is_gold: bool = False) -> Reading:
    """Return an answer read in a form.

    Args:
        text: The answer as written, without the box around it.
        form: The declared form.
        conventions: The task's unit, decimal comma and options.
        is_gold: Whether it is the task's own answer, whose quoted unit may be any words.

    Raises:
        Unreadable: It has no reading in that form, and the text says why.
        TooCostly: It is too long, too deep or would take too many digits.
        Hedged: It gives several answers where one was asked.
    """
    check_text(text)
    if form in SINGLE_FORMS and conventions.is_comma_decimal:
        text = _write_decimal_point(text)
    plain = write_plainly(text).rstrip(" ,;").removesuffix(".").strip()
    if not plain:
        raise Unreadable("nothing stands there")
    if form in SINGLE_FORMS:
        return _read_single(plain, form, conventions, is_gold)
    if form == "choice":
        return Reading(plain, ["words", read_choice(plain, conventions.choices)])
    if form == "text":
        return Reading(plain, ["words", _fold_words(plain)])
    if form == "expression":
        return _read_expression(plain, conventions, is_gold)
    readers = {"equation": read_relation, "set": read_set, "interval": read_interval, "tuple": read_tuple}
    return Reading(plain, readers[form](plain))


def _write_decimal_point(text: str) -> str:
    text = re.sub(r"(?<=\d)(?:\.|\\,|[\s\u2009\u202f\u00a0])(?=\d{3}(?!\d))", "", fold_unicode(text))
    return re.sub(r"(?<=\d)\{?,\}?(?=\d)", ".", text)


def _read_single(plain: str, form: AnswerForm, conventions: Conventions, is_gold: bool) -> Reading:
    if _OTHER_RELATIONS.search(plain):
        raise Unreadable("a relation where one number was asked")
    check_hedge(plain)
    sides = split_top(group_digits(write_mixed(plain)), _EQUALS)
    label = ""
    if len(sides) > 1:
        labels = [side for side in sides if LABEL.fullmatch(side) and side not in ("e", "i")]
        sides = [side for side in sides if side not in labels]
        label = labels[0].strip('"') if labels else ""
    if not sides or "" in sides:
        raise Unreadable("an equation that is not whole")
    readings = [_read_side(side, form if side is sides[-1] else "value", conventions, is_gold) for side in sides]
    last, unit = readings[-1]
    return Reading(plain, last, unit, label, tuple(side for side, _ in readings[:-1]))


def _read_side(side: str, form: AnswerForm, conventions: Conventions, is_gold: bool) -> tuple[Object, str]:
    number, unit = split_unit(side, also=conventions.unit, takes_any=is_gold)
    if len(split_top(number, re.compile("[,;]"))) > 1:
        raise Hedged("several values, or commas that group no thousands")
    if form == "integer":
        return ["expr", ["num", str(read_integer(number))], ""], unit
    if form == "number":
        return ["expr", ["num", str(read_numeral(number))], ""], unit
    based = read_based(number)
    if based is not None:
        return based, unit
    tree = parse_expression(write_mixed(write_repeating(number)))
    names = find_names(tree)
    if names:
        raise Unreadable(f"{show(side)} is no number: it holds {', '.join(sorted(names))}")
    value = evaluate(tree)
    if value is None:
        measure(tree)
    elif isinstance(value, Fraction):
        tree = ["num", str(value)]
    return ["expr", tree, ""], unit


def find_names(tree: Tree) -> set[str]:
    """Return the names of a tree's variables."""
    if tree[0] == "sym":
        return {tree[1]}
    return set().union(*(find_names(part) for part in tree[1:] if isinstance(part, list)))


def check_hedge(plain: str) -> None:
    """Refuse an answer that offers alternatives.

    Raises:
        Hedged: It does.
    """
    found = _HEDGES.search(plain)
    if found:
        raise Hedged(f"several answers where one was asked ({found[0].strip()})")


def _read_expression(plain: str, conventions: Conventions, is_gold: bool) -> Reading:
    if _OTHER_RELATIONS.search(plain):
        raise Unreadable("a relation where an expression was asked")
    check_hedge(plain)
    sides = split_top(group_digits(write_mixed(plain)), _EQUALS)
    label = ""
    if len(sides) == 2 and LABEL.fullmatch(sides[0]):
        label, sides = sides[0], sides[1:]
    if len(sides) != 1:
        raise Unreadable("an equation where an expression was asked")
    number, unit = sides[0], ""
    if conventions.unit or '"' in number or "%" in number or number.startswith("$") or number.endswith("°"):
        number, unit = split_unit(number, also=conventions.unit, takes_any=is_gold)
    tree = parse_expression(write_repeating(number))
    value = evaluate(tree)  # refuses what is too costly before it is sent anywhere
    if value is None:
        measure(tree)
    return Reading(plain, ["expr", tree, ""], unit, label)


def read_choice(plain: str, choices: tuple[str, ...] = ()) -> str:
    """Return the letter of the option that an answer names, in upper case.

    `B`, `(b)`, `B.`, `Option B` and `(B) a cat` name one. Where the options' texts are known, the text beside the
    letter must be that option's, and an option's whole text names it too.

    Raises:
        Unreadable: It names none.
        Hedged: It names more than one, or a letter and another option's text.
    """
    said = plain.replace('"', " ").strip()
    said = " ".join(said.split())
    alone = _PLACE.fullmatch(said)
    if alone:
        return alone[1].upper()
    folded = [_fold_words(write_plainly(choice)) for choice in choices]
    if folded.count(_fold_words(said)) == 1:
        return chr(ord("A") + folded.index(_fold_words(said)))
    both = _LETTER_AND_TEXT.fullmatch(said)
    if not both:
        raise Unreadable(f"{show(said)} is not the letter of one option")
    letter = (both[1] or both[2]).upper()
    number = ord(letter) - ord("A")
    if choices and (number >= len(choices) or folded[number] != _fold_words(both[3])):
        raise Hedged(f"the text beside {letter} is not that option's")
    if not choices and _OTHER_LETTER.search(both[3]):
        raise Hedged(f"more than the letter {letter}: {show(both[3])}")
    return letter


def _fold_words(plain: str) -> str:
    return make_literal(" ".join(plain.replace('"', " ").casefold().split()).strip(" .!"))


def suggest_form(gold: str) -> AnswerForm:
    """Return the form that a gold answer has by its looks: for data whose rows declare none.

    `(2, 4)` may be an interval or a pair: it is taken for a tuple, which compares the same two numbers in order,
    and would refuse `2 < x < 4`. A gold answer in words is `text`, one letter in brackets `choice`.
    """
    plain = write_plainly(gold).rstrip(" ,;").removesuffix(".").strip()
    if re.fullmatch(r'"?\(([A-Z])\)"?', plain):
        return "choice"
    for form in ("value", "interval", "tuple", "set", "equation", "expression"):
        if form == "interval" and not re.search(r"\\cup|\\in(?![a-zA-Z])|^\[.*[\])]$|^\(.*\]$|\\infty", plain):
            continue
        if form == "tuple" and not (is_enclosed(plain, "(", ")") or plain.startswith((r"\begin", r"\langle"))):
            continue
        if form == "set" and not re.search(r'\\\{|[,;]|\\pm|\\emptyset|"[, ]*(?:and|or)[, ]*"', plain):
            continue
        try:
            reading = read(gold, form, Conventions(), is_gold=True)
        except Unreadable:
            continue
        if form == "set" and all(element[0] == "words" for element in reading.object[1]) and "," not in plain:
            continue
        return form
    return "text"


def is_restated(plain: str, form: AnswerForm, question: str) -> bool:
    """Return whether an answer is a computation that the question itself holds: `123 * 457` for `Compute 123*457`.

    A plain number never is one, nor a fraction in lowest terms: those may well stand in a question and be right.
    """
    if not question or form not in ("number", "value", "expression", "equation"):
        return False
    said = _squeeze(plain)
    if not re.search(r"(?<!^)[-+*/^!=<>(]|\\[a-zA-Z]", said) or len(said) < 3:
        return False
    fraction = re.fullmatch(
        r"-?(?:\\frac)?\{?(\d+)\}?[/{]?(\d+)\}?", write_plainly(plain).replace(" ", "").replace("}{", "}{")
    )
    if fraction and Fraction(int(fraction[1]), int(fraction[2]) or 1).denominator == int(fraction[2]):
        return False
    start = r"(?<![\w^/*+-])(?<!\d\.)" if said[0].isalnum() else ""
    end = r"(?![\w^/*+-])" if said[-1].isalnum() else ""
    return re.search(start + re.escape(said) + end, _squeeze(question[:20_000])) is not None


def _squeeze(text: str) -> str:
    text = re.sub(r"[{}]", "", write_plainly(text.replace("$", " ")).replace('"', ""))
    return re.sub(r" ?([-+*/^=<>()\[\],_!|]) ?", r"\1", " ".join(text.split()))
