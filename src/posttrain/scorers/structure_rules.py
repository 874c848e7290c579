"""The rules of `structure`: each reads its arguments once and returns a check of a text.

A check returns None where the text keeps the rule, else a sentence part. `structure` lets no text without a letter or
digit reach a rule that it could keep by saying nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from posttrain.chat.strict_json import JsonRefusedError, parse_json
from posttrain.scorers.arguments import Arguments, Relation, holds
from posttrain.scorers.counting import count_spaced_words
from posttrain.scorers.instruction_texts import Check
from posttrain.scorers.json_schemas import check_value
from posttrain.scorers.patterns import compile_pattern, matches_whole
from posttrain.scorers.plain_text import find_markup
from posttrain.scorers.sentences import split_sentences
from posttrain.scorers.tags import find_tag_fault

MAX_MARKDOWN_CHARACTERS = 50_000
"""The markdown parser takes quadratic time on some texts: about a second at this length."""
_COMMAS = (
    ",\u060c\u055d\u07f8\u1363\u1802\u1808\u201a\u2e32\u2e34\u2e41\u3001"
    "\ua4fe\ua60d\uff0c\uff64\ufe10\ufe11\ufe50\ufe51"
)
_MARKDOWN_PARTS = {
    "headings": "heading_open",
    "list_items": "list_item_open",
    "tables": "table_open",
    "code_blocks": "fence",
    "quotations": "blockquote_open",
    "paragraphs": "paragraph_open",
    "bold": "strong_open",
    "links": "link_open",
}
_ALSO = re.compile(
    r"(at least|at most|less than|more than|exactly) (\d{1,9}) (words|sentences|lines|characters|paragraphs)"
)
_COUNTS: dict[str, Callable[[str], int]] = {
    "words": count_spaced_words,
    "sentences": lambda text: len(split_sentences(text)),
    "lines": lambda text: sum(1 for line in text.splitlines() if line.strip()),
    "characters": lambda text: len(text.strip()),
    "paragraphs": lambda text: sum(1 for piece in re.split(r"\n[ \t]*\n", text) if piece.strip()),
}
_TYPES: dict[str, Callable[[Any], bool]] = {
    "str": lambda value: isinstance(value, str),
    "int": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "float": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "bool": lambda value: isinstance(value, bool),
    "list": lambda value: isinstance(value, list),
    "dict": lambda value: isinstance(value, dict),
    "null": lambda value: value is None,
}


def build_json_object(arguments: Arguments) -> Check:
    """The text is one JSON object with these `keys`, of these `types`.

    Other keys are refused unless `allow_extra`, blank texts, empty lists and empty objects unless `allow_empty`.
    """
    keys = arguments.texts("keys", default=[])
    types = arguments.mapping("types", default={})
    for name, kind in types.items():
        if kind not in _TYPES:
            raise arguments.error(f"the type of {name!r} is {kind!r}", expected=f"one of {', '.join(_TYPES)}")
    wanted = list(dict.fromkeys([*keys, *types]))
    allows_extra = arguments.flag("allow_extra", default=not wanted)
    allows_empty = arguments.flag("allow_empty", default=False)

    def check(text: str) -> str | None:
        value = parse_json(text)
        if not isinstance(value, dict):
            return f"a JSON {type(value).__name__}, no object"
        missing = [name for name in wanted if name not in value]
        extra = [name for name in value if name not in wanted]
        if missing or (extra and not allows_extra):
            return (
                f"keys {', '.join(map(repr, missing))} missing" if missing else f"the key {extra[0][:40]!r} is unknown"
            )
        for name in wanted:
            if name in types and not _TYPES[types[name]](value[name]):
                return f"{name!r} is no {types[name]}"
            if not allows_empty and types.get(name) != "null" and _is_empty(value[name]):
                return f"{name!r} is empty"
        return None

    return check


def build_json_array(arguments: Arguments) -> Check:
    """The text is one JSON array with `min` to `max` items, each of the type `items` where that is given."""
    low, high = _read_bounds(arguments, default_low=1)
    kind = arguments.text("items", default="") if "items" in arguments else ""
    if kind and kind not in _TYPES:
        raise arguments.error(f"'items' is {kind!r}", expected=f"one of {', '.join(_TYPES)}")

    def check(text: str) -> str | None:
        value = parse_json(text)
        if not isinstance(value, list):
            return f"a JSON {type(value).__name__}, no array"
        if not _is_between(len(value), low, high):
            return f"{len(value)} items"
        return next((f"item {n} is no {kind}" for n, item in enumerate(value) if kind and not _TYPES[kind](item)), None)

    return check


def build_json_schema(arguments: Arguments) -> Check:
    """The text is one JSON value that fulfils `schema` (a mapping or its JSON text); see `json_schemas`."""
    schema = arguments.raw("schema", "a JSON Schema")
    if isinstance(schema, str):
        try:
            schema = parse_json(schema)
        except JsonRefusedError as error:
            raise arguments.error(f"'schema' is {error}", expected="a JSON Schema") from None
    check_value(None, schema, place=arguments.place)  # a schema that cannot be used is found whatever the text is
    return lambda text: check_value(parse_json(text), schema, place=arguments.place)


def build_regex(arguments: Arguments) -> Check:
    """The whole text, without white space around it, matches `pattern` (trusted, and stopped when it takes long)."""
    pattern = arguments.text("pattern")
    try:
        compile_pattern(pattern)
    except ValueError as error:
        raise arguments.error(f"'pattern' is {error}", expected="a regular expression") from None
    return lambda text: None if matches_whole(pattern, text.strip()) else f"does not match {pattern!r}"


def build_tags(arguments: Arguments) -> Check:
    """The text is the blocks of `tags`, each once, closed, in order and with something in it; see `tags`.

    `may_be_empty` names tags that may hold nothing; `allow_text_outside` lets words stand around the blocks;
    `opened_by_prompt` says that the chat template writes the first opening tag.
    """
    tags = arguments.texts("tags", default=["think", "answer"])
    may_be_empty = arguments.texts("may_be_empty", default=[])
    allows_text = arguments.flag("allow_text_outside", default=False)
    prefix = f"<{tags[0]}>" if arguments.flag("opened_by_prompt", default=False) else ""
    if len(set(tags)) < len(tags) or not all(re.fullmatch(r"[A-Za-z][\w-]*", tag) for tag in tags):
        raise arguments.error(f"'tags' is {tags!r}", expected="different names of letters, digits, _ and -")
    return lambda text: find_tag_fault(prefix + text, tags, may_be_empty=may_be_empty, allows_text_outside=allows_text)


def build_plain_text(arguments: Arguments) -> Check:
    """No markup, control code or invisible sign; see `plain_text`."""
    del arguments
    return find_markup


def build_no_comma(arguments: Arguments) -> Check:
    """No comma of any script."""
    del arguments
    return lambda text: next((f"the comma {sign!r}" for sign in _COMMAS if sign in text), None)


def build_count(unit: str) -> Callable[[Arguments], Check]:
    """Return the builder of the rule that a text has `min` to `max` words (sentences, lines, ...), both included."""
    count = _COUNTS[unit]

    def build(arguments: Arguments) -> Check:
        low, high = _read_bounds(arguments)

        def check(text: str) -> str | None:
            found = count(text)
            return None if _is_between(found, low, high) else f"{found} {unit}"

        return check

    return build


def build_markdown(arguments: Arguments) -> Check:
    """The text, read as CommonMark with tables, has `min` to `max` of named parts: `min: {headings: 2}`."""
    bounds = {name: arguments.mapping(name, default={}) for name in ("min", "max")}
    named = {part for counts in bounds.values() for part in counts}
    if not named or named - set(_MARKDOWN_PARTS):
        raise arguments.error(f"parts {sorted(named)!r}", expected=f"counts of {', '.join(_MARKDOWN_PARTS)}")
    lows, highs = (Arguments(bounds[name], owner=arguments.owner, place=arguments.place) for name in ("min", "max"))
    limits = [
        (part, lows.number(part, default=0), highs.number(part) if part in highs else None) for part in sorted(named)
    ]

    def check(text: str) -> str | None:
        if len(text) > MAX_MARKDOWN_CHARACTERS:
            return f"longer than the {MAX_MARKDOWN_CHARACTERS} characters that are read as markdown"
        found = _count_markdown(text)
        wrong = [part for part, low, high in limits if not _is_between(found[part], low, high)]
        return f"{found[wrong[0]]} {wrong[0]}" if wrong else None

    return check


def build_options(arguments: Arguments) -> Check:
    """The text, without white space around it, is exactly one of `options`."""
    options = arguments.texts("options")
    return lambda text: None if text.strip() in options else "none of the options"


def build_case(is_upper: bool) -> Callable[[Arguments], Check]:
    """Return the builder of the rule that all letters that have a case are in this one, and at least one has."""

    def build(arguments: Arguments) -> Check:
        del arguments
        name = "upper" if is_upper else "lower"
        return lambda text: None if (text.isupper() if is_upper else text.islower()) else f"not all in {name} case"

    return build


def build_affix(is_start: bool) -> Callable[[Arguments], Check]:
    """Return the builder of the rule that a text begins (or ends) with `phrase`, with more words beside it."""

    def build(arguments: Arguments) -> Check:
        phrase = arguments.text("phrase").strip()

        def check(text: str) -> str | None:
            text = text.strip()
            return None if (text.startswith(phrase) if is_start else text.endswith(phrase)) else f"without {phrase!r}"

        return check

    return build


def build_words_present(arguments: Arguments) -> Check:
    """Each of `words` occurs as a whole word, in any case."""
    words = arguments.texts("words")
    return lambda text: next((f"without {word!r}" for word in words if not _is_word_in(word, text)), None)


def build_words_absent(arguments: Arguments) -> Check:
    """None of `words` occurs as a whole word, in any case."""
    words = arguments.texts("words")
    return lambda text: next((f"{word!r} is forbidden" for word in words if _is_word_in(word, text)), None)


def read_also(text: str) -> Callable[[str], str | None] | None:
    """Return the check of a condition in words, such as "at least 15 words", None where it is none."""
    match = _ALSO.fullmatch(text.strip().lower())
    if match is None:
        return None
    relation: Relation = match[1]  # type: ignore[assignment]  # the pattern takes these words alone
    target, unit = int(match[2]), match[3]

    def check(text: str) -> str | None:
        count = _COUNTS[unit](text)
        return None if holds(count, relation, target) else f"{count} {unit}, not {relation} {target}"

    return check


def _read_bounds(arguments: Arguments, *, default_low: int | None = None) -> tuple[int, int | None]:
    if default_low is None and "min" not in arguments and "max" not in arguments:
        raise arguments.error(f"'{arguments.owner}' has neither 'min' nor 'max'", expected="at least one of them")
    low = arguments.number("min", default=default_low or 0)
    high = arguments.number("max", smallest=low) if "max" in arguments else None
    return low, high


def _is_between(count: int, low: int, high: int | None) -> bool:
    return low <= count and (high is None or count <= high)


def _is_empty(value: Any) -> bool:
    return value is None or value == [] or value == {} or (isinstance(value, str) and not value.strip())


def _is_word_in(word: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) is not None


def _count_markdown(text: str) -> dict[str, int]:
    from markdown_it import MarkdownIt

    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    kinds = [token.type for token in tokens] + [child.type for token in tokens for child in token.children or ()]
    return {part: kinds.count(kind) for part, kind in _MARKDOWN_PARTS.items()}
