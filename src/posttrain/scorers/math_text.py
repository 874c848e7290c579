"""One spelling for an answer's text: unicode, LaTeX dressing and number grouping become a small ASCII LaTeX.

Only spelling changes here, never meaning: `5²` becomes `5^{2}` and not `52`, and what has no certain meaning (an
en dash between digits, a circled digit) stays as it is, so that a reader further on refuses it.
"""

from __future__ import annotations

import re
import unicodedata

_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n", strict=True))
_SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))
_FRACTIONS = {character: unicodedata.normalize("NFKC", character).split("⁄") for character in "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅐⅛⅜⅝⅞⅑⅒"}
_SIGNS = {
    "−": "-", "﹣": "-", "－": "-", "×": "*", "∗": "*", "⋅": "*", "·": "*", "∙": "*", "÷": "/", "∕": "/", "⁄": "/",
    "π": r"\pi ", "∞": r"\infty ", "±": r"\pm ", "≤": "<=", "≥": ">=", "≠": r"\ne ", "≈": r"\approx ", "√": r"\sqrt ",
    "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "°": r"^\circ ", "º": r"^\circ ", "∓": r"\mp ",
    "ℝ": r"\mathbb{R}", "∑": r"\sum ", "∏": r"\prod ", "∫": r"\int ", "′": "'", "’": "'", "∨": r"\lor ",
    "⟨": r"\langle ", "⟩": r"\rangle ", "∛": r"\sqrt[3]", "∣": "|", "，": ",", "：": ":", "α": r"\alpha ",
    "θ": r"\theta ", "λ": r"\lambda ", "μ": r"\mu ", "φ": r"\phi ", "“": '"', "”": '"',
}  # fmt: skip
_DROPPED = re.compile(
    r"\\(?:left|right)\s*\.|\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits|nolimits|strut)(?![a-zA-Z])"
)
_SPACES = re.compile(
    r"(?:(?<=\\\\)|(?<!\\))\\[,;:! ]|\\(?:quad|qquad|thinspace|enspace)(?![a-zA-Z])|~"
    r"|\\(?:hspace|vspace|phantom)\{[^{}]*\}"
)
_TEXT = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal|up|md)?|mathrm|mathbf|mathit|mathsf|mbox|hbox|operatorname\*?|emph|bm"
    r"|boldsymbol)\s*\{([^{}]*)\}"
)
_RENAMED = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "dbinom": "binom", "tbinom": "binom", "leq": "le", "geq": "ge",
    "leqslant": "le", "geqslant": "ge", "lt": "le!", "neq": "ne", "varnothing": "emptyset", "degree": "circ",
    "lbrace": "{", "rbrace": "}", "lvert": "vert", "rvert": "vert", "plusmn": "pm", "arccos": "acos", "arcsin": "asin",
    "arctan": "atan", "overline": "bar", "dot": "bar", "dots": "ldots", "cdots": "ldots", "lor": "or", "vee": "or",
    "dollar": "$", "inf": "infty", "Pi": "Pi", "bmatrix": "pmatrix",
}  # fmt: skip
_OPERATORS = {
    r"\le": "<=", r"\ge": ">=", r"\gt": ">", r"\cdot": "*", r"\times": "*", r"\ast": "*", r"\div": "/",
    r"\vert": "|", r"\mid": "|", r"\colon": ":",
}  # fmt: skip
_WORD_COMMAND = re.compile(r"\\([a-zA-Z]+)")
_GROUPS = r"(?<![\d.,])([1-9]\d{0,2}(?:SEP\d{3})+)(?![\d,]*\d)"
_EXPLICIT_COMMA = re.compile(_GROUPS.replace("SEP", r"(?:\{,\}\s*|,\s*\\!\s*|\\,\s*|[\u2009\u202f\u00a0])"))
_SHORT_ARGUMENTS = re.compile(r"\\frac\s*(?=[\w\\{])")


def fold_unicode(text: str) -> str:
    """Return the text with invisible characters removed and mathematical characters written in ASCII LaTeX.

    Digits of any script become ASCII digits, full-width characters ordinary ones, raised digits an exponent and
    vulgar fractions a fraction. Thin and no-break spaces stay until `write_plainly` has seen digit groups.
    """
    if text.isascii():
        return text
    pieces: list[str] = []
    raised = ""
    for character in text:
        if character in _SUPERSCRIPTS:
            raised += _SUPERSCRIPTS[character]
            continue
        if raised:
            pieces.append("^{" + raised + "}")
            raised = ""
        pieces.append(_fold_character(character))
    if raised:
        pieces.append("^{" + raised + "}")
    return re.sub(r"\\sqrt (\d+)", r"\\sqrt{\1}", "".join(pieces))


def _fold_character(character: str) -> str:
    if character.isascii() or character in "\u2009\u202f\u00a0":
        return character
    if character in _SIGNS:
        return _SIGNS[character]
    if character in _SUBSCRIPTS:
        return "_" + _SUBSCRIPTS[character]
    if character in _FRACTIONS:
        top, bottom = _FRACTIONS[character]
        return rf"\frac{{{top}}}{{{bottom}}}"
    category = unicodedata.category(character)
    if category == "Cf":
        return ""
    if category == "Zs":
        return " "
    if category == "Nd":
        return str(unicodedata.digit(character))
    if "\uff01" <= character <= "\uff5e" or "\U0001d400" <= character <= "\U0001d7cb":  # full width; maths letters
        return unicodedata.normalize("NFKC", character)
    return character


def write_plainly(text: str) -> str:
    r"""Return an answer in the spelling that every reader of this room expects.

    Delimiters (`$`, `\(`), sizes (`\left`) and spacing go, `\dfrac`, `\le`, `\cdot` and their kin become one
    spelling, `\frac12` gets its braces, `\text{cm}` becomes `"cm"`, the degree sign `°`, and a comma or a space
    that LaTeX marks as a thousands separator (`1{,}000`, `1\,000`) disappears. A leading dollar sign stays.
    """
    text = fold_unicode(text.strip().replace("\n", " "))
    text = _EXPLICIT_COMMA.sub(lambda found: re.sub(r"\D", "", found[0]), text)
    text = _SPACES.sub(" ", _DROPPED.sub(" ", text))
    text = _strip_delimiters(text)
    text = _WORD_COMMAND.sub(lambda found: "\\" + _RENAMED.get(found[1], found[1]), text).replace(r"\le!", "<")
    text = text.replace("{bmatrix}", "{pmatrix}").replace(r"\%", "%")
    for _ in range(3):  # text in text, as deep as people write it
        text = _TEXT.sub(lambda found: _quote(found[1]), text)
    text = re.sub(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-zA-Z]))", "°", text)
    text = re.sub(r"\\circ(?![a-zA-Z])", "°", text)
    for command, sign in _OPERATORS.items():
        text = re.sub(re.escape(command) + r"(?![a-zA-Z])", f" {sign} ", text)
    text = _brace_fractions(text).replace("**", "^")
    return re.sub(r"\s+", " ", text).strip()


def _quote(words: str) -> str:
    words = words.strip()
    return words if len(words) <= 1 or not any(map(str.isalpha, words)) else f' "{words}" '


def _strip_delimiters(text: str) -> str:
    text = re.sub(r"\\[()\[\]]", " ", text).strip()
    text = text.replace(r"\$", "\ufdd0")  # a dollar that is written out is money, never a delimiter
    if text.count("$") % 2 == 0:
        text = text.replace("$", " ")
    return text.replace("\ufdd0", "$").replace(r"\$", "$").strip()


def _brace_fractions(text: str) -> str:
    r"""Write `\frac12`, `\frac1{2}` and `\frac{1}2` with braces; LaTeX reads one character as one argument."""
    if r"\frac" not in text:
        return text
    pieces: list[str] = []
    position = 0
    for found in _SHORT_ARGUMENTS.finditer(text):
        if found.start() < position:
            continue
        pieces.append(text[position : found.start()])
        top, after = _take_argument(text, found.end())
        bottom, position = _take_argument(text, after)
        inner = [_brace_fractions(part) if part.startswith("{") else "{" + part + "}" for part in (top, bottom)]
        pieces.append(r"\frac" + "".join(inner))
        if len(bottom) == 1 and text[position : position + 1].isdigit():
            pieces.append("?")  # `\frac123` is 1/2 times 3 to LaTeX and something else to who wrote it
    return "".join([*pieces, text[position:]])


def _take_argument(text: str, start: int) -> tuple[str, int]:
    while start < len(text) and text[start] == " ":
        start += 1
    if start >= len(text):
        return "", start
    if text[start] == "{":
        depth = 0
        for end in range(start, len(text)):
            depth += (text[end] == "{") - (text[end] == "}")
            if depth == 0:
                return text[start : end + 1], end + 1
        return text[start:] + "}", len(text)
    command = re.compile(r"\\[a-zA-Z]+\s*(?:\{[^{}]*\})?|.").match(text, start)
    assert command is not None  # `start` is inside the text
    return command[0], command.end()


def make_literal(text: str) -> str:
    """Return a plainly written answer without what spelling alone decides: spaces, braces of one character, quotes.

    Two answers with equal literals are the same text, and need no further reading.
    """
    text = re.sub(r"(?<![\w}] )(?<![\w}])\\frac\{(-?\d+)\}\{(\d+)\}(?! ?[\w{^!])", r"\1/\2", text.replace('"', " "))
    text = re.sub(r"(?<=[\^_])\{([0-9a-zA-Z])\}(?! ?\w)", r"\1", text)
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"(?<![0-9a-zA-Z]) | (?![0-9a-zA-Z])", "", text)
    return text.strip().rstrip(".")


def group_digits(text: str) -> str:
    """Return the text with thousands groups joined: `1,234`, `1 234`. Only for an answer that is one value."""
    for separator in (",", " "):
        pattern = re.compile(_GROUPS.replace("SEP", separator))
        text = pattern.sub(lambda found: re.sub(r"\D", "", found[0]), text)
    return text
