"""Texts as words that compare: what spelling, case, spacing and punctuation hide is folded, figures are not.

    "What is **47 + 38**?"  ->  what, is, 47, +, 38

* Letters and their marks are a word, digits are a word of their own (`5kg` is `5 kg`), and every character of a
  script that puts no spaces between words (Han, kana, Thai, Lao, Khmer, Burmese) is one.
* NFKC with casefolding; invisible characters (soft hyphens, zero-width and direction marks) are dropped.
* An operator (`+ - * / ^ = < > %`, and the typographic forms of them) is a word between two operands, which are
  numbers, single letters and brackets; `+ / ^ = < >` also between an operand and a longer word (`x + bx`); and a sign
  right before a number or single letter. Hyphens, dashes, list markers and emphasis are punctuation. So `47 + 38`
  differs from `47 - 38`, and `well-known` is `well known`.
* All other punctuation separates words and is dropped: `3.5` is `3, 5`, `1,000` is `1, 000` and no `1000`.

A text's words are the same wherever the text stands, as long as white space separates it from what is around it.

`read_figures_folded` reads one number alike however it is written: digits of every script, `1,000` and `1000`, `seven`
and `7`, `twenty-one` and `21`. Operators stay, so `47 + 38` is still no `47 - 38`. Numbers of several words with spaces
between them (`two hundred`) are read word by word, because what stands around a text could join them.
"""

from __future__ import annotations

import unicodedata

import regex

_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_LETTER = r"[\p{L}\p{M}]"
_SINGLE = rf"(?<!{_LETTER}){_LETTER}(?!{_LETTER})"
_OPERAND_END = rf"(?:[\p{{Nd}})\]}}}}]|{_SINGLE})"
_WORD_END = r"[\p{L}\p{M}\p{Nd})\]}}]"
_AFTER_OPERAND = rf"(?:(?<={_OPERAND_END})|(?<={_OPERAND_END} ))"
_AFTER_WORD = rf"(?:(?<={_WORD_END})|(?<={_WORD_END} ))"
_BEFORE_OPERAND = rf"(?= ?[-+]?(?:[\p{{Nd}}(\[{{]|{_SINGLE}))"
_SIGN = rf"[-+](?=\p{{Nd}}|{_SINGLE})"
# What ends a run of operators must not depend on what follows the text, and a sign must stay a word of its own whatever
# stands before it: a run that needs nothing behind it takes all but a sign, one that does is as short as it can be.
_WORD = regex.compile(
    "|".join(
        [
            rf"[{_UNSPACED}]\p{{M}}*",
            rf"[[\p{{L}}\p{{M}}]--[{_UNSPACED}]]+",
            r"\p{Nd}+",
            rf"{_AFTER_OPERAND}[+/^=<>](?:(?!{_SIGN})[-+*/^=<>%]){{0,2}}",
            rf"{_AFTER_OPERAND}[-*%][-+*/^=<>%]{{0,2}}?{_BEFORE_OPERAND}",
            rf"{_AFTER_WORD}[+/^=<>]{{1,3}}?{_BEFORE_OPERAND}",
            rf"(?<!{_WORD_END}){_SIGN}",
        ]
    ),
    regex.V1,
)
_INVISIBLE = regex.compile(r"[\p{Cf}\uFE00-\uFE0F]+")
_OPERATOR_FORMS = str.maketrans({"−": "-", "–": "-", "×": "*", "·": "*", "⋅": "*", "∗": "*", "÷": "/", "⁄": "/"})

_SMALL = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_FIGURES = {word: str(number) for number, word in enumerate(_SMALL)} | {
    word: str(10 * number) for number, word in enumerate(_TENS, start=2)
}
_FOREIGN_DIGIT = regex.compile(r"[\p{Nd}--[0-9]]", regex.V1)
_GROUPED = regex.compile(r"(?<![\d,.])\d{1,3}(?:,\d{3})+(?![\d,])")
_COMPOUND = regex.compile(
    rf"(?<![\p{{L}}\p{{M}}\p{{Nd}}])({'|'.join(_TENS)})[-\u2010\u2011]({'|'.join(_SMALL[1:10])})"
    rf"(?![\p{{L}}\p{{M}}\p{{Nd}}])",
    regex.V1 | regex.IGNORECASE,
)


def read_words(text: str) -> list[str]:
    """Return the words of a text, in time linear in its length.

    Known difference from Unicode's NFKC_Casefold: what is invisible is everything of category Cf and the variation
    selectors, not the property Default_Ignorable_Code_Point.
    """
    if text.isascii():
        text = text.casefold()
    else:
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
        text = _INVISIBLE.sub("", text).translate(_OPERATOR_FORMS)
    # TeX's dollars and backslashes would hide that "$x$ - $y$" is a difference
    text = " ".join(text.replace("$", " ").replace("\\", " ").split())
    words: list[str] = _WORD.findall(text)
    return words


def read_figures_folded(text: str) -> tuple[list[str], list[str]]:
    """Return the words of a text with its figures folded, and the same words as they are shown, one for one.

    Example: `Seven of 1,000` gives `7, of, 1000` and `seven, of, 1000`.
    """
    if not text.isascii():
        text = _FOREIGN_DIGIT.sub(_write_digit, text)
    if "," in text:
        text = _GROUPED.sub(lambda match: match[0].replace(",", ""), text)
    if "-" in text or not text.isascii():
        text = _COMPOUND.sub(_write_compound, text)
    shown = read_words(text)
    return [_FIGURES.get(word, word) for word in shown], shown


def _write_digit(match: regex.Match[str]) -> str:
    return str(unicodedata.decimal(match[0]))


def _write_compound(match: regex.Match[str]) -> str:
    tens, unit = match[1].casefold(), match[2].casefold()
    return str(int(_FIGURES[tens]) + int(_FIGURES[unit]))
