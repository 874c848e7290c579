"""Claims in free text: the declared grammar, and what a knowledge base says of each.

The grammar (`of`, `'s`, the copula and the patterns in any case; names as the knowledge base has them, with their
aliases):

    entity | attribute | value                      one a line, a list bullet before it allowed
    {"entity": ..., "attribute": ..., "value": ..., "negated": false}
                                                    alone on a line, in a code block or as the whole text; or a list of
                                                    such, or {"claims": [...]}
    The <attribute> of <entity> is <value>.         is, was, are, were; isn't, was not, is never, is no longer: negated
    <Entity>'s <attribute> is <value>.
    a pattern that the attribute declares           {entity} lies in {value}.

Not read, and never taken for a claim: questions, sentences with anything before the pattern (`It is false that ...`),
other wordings, pronouns, sentences over 1,000 characters. They are counted. A claim is `unknown`, and never supported,
where its value is hedged (`probably`, `formerly`), or a sentence takes it back (`That is false.`, `None of this is
true.`, `These are wrong:` above a list); and never contradicted where other words follow the value. Where an attribute
admits several values, a list is a claim for each.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from posttrain.scorers.claim_sentences import MAX_SENTENCE_CHARACTERS, split_sentences
from posttrain.scorers.knowledge_base import KnowledgeBase, Verdict
from posttrain.scorers.typed_values import normalise_answer

_COPULA = re.compile(r" (?:is|was|are|were)(n't| not| never| no longer| no)?(?= )", re.IGNORECASE)
_OF = re.compile(r" of (?:the )?", re.IGNORECASE)
_POSSESSIVE = re.compile(r"(?:'s|(?<=s)') ")
_NEGATION = re.compile(r"(?:not|never|no longer|no)\s+", re.IGNORECASE)
_FILLERS = re.compile(r"(?:also|now|currently|actually|indeed|still|officially|called|named)\s+", re.IGNORECASE)
_APPROXIMATE = re.compile(
    r"(?:about|approximately|around|roughly|nearly|almost|circa|ca\.?|c\.|some)\s+", re.IGNORECASE
)
_HEDGE = re.compile(
    r"(?:not|never|probably|perhaps|maybe|possibly|likely|unlikely|reportedly|allegedly|supposedly|presumably|arguably|formerly"
    r"|once|previously|neither|either|anything but|far from|other than|false|wrong|hardly|barely|more than|less than"
    r"|over|under|at least|at most|up to|(?:often |widely |sometimes )?"
    r"(?:said|believed|thought|rumou?red|claimed|considered|assumed|reported) to be)\b",
    re.IGNORECASE,
)
_TAIL = re.compile(
    r"[,;:(/]| [-\u2013\u2014] | (?:which|that|who|but|and|or|nor|because|although|though|however|while|is|was|are|were"
    r"|except|until|since|as|if|when|unless|not|in|according)\b",
    re.IGNORECASE,
)
_RETRACTION = re.compile(
    r"(?:no, )?(?:that|this|it|the (?:above|previous (?:claim|statement|sentence)))"
    r"(?:'s| is| was|(?= isn't| wasn't))(?!.* that ).{0,30}?"
    r"(?:false|wrong|untrue|incorrect|mistaken|a lie|not (?:true|correct|right|the case)"
    r"|(?:isn't|wasn't) (?:true|correct|right)).{0,20}"
    r"|not[.!]|just kidding[.!]?",
    re.IGNORECASE,
)
_RETRACTION_OF_ALL = re.compile(
    r"(?:all|everything|both|each)\b.{0,60}"
    r"\b(?:false|wrong|untrue|incorrect|lies|a lie|made up|not true|invented).{0,20}"
    r"|(?:none|nothing|neither)\b.{0,60}\b(?:true|correct|right).{0,20}",
    re.IGNORECASE,
)
_DENIAL = re.compile(
    r"\b(?:false|wrong|incorrect|untrue|myths?|misconceptions?|lies|mistakes|errors"
    r"|(?:not|aren't|isn't) (?:true|correct))\b",
    re.IGNORECASE,
)
_BULLET = re.compile(r"\A\s*(?:[-*\u2022]|\d{1,3}[.)])\s+")
_LIST_PARTS = re.compile(r"\s*(?:,|;|&)\s*(?:and |or |nor )?|\s+(?:and|or|nor)\s+", re.IGNORECASE)
_MOST_SPLITS = 8
_TAKEN_BACK: list[Claim] = []
_ALL_TAKEN_BACK: list[Claim] = []
"""Stand for a sentence that takes the one before it back, or all of them; told from other lists by identity."""


@dataclass(frozen=True, slots=True)
class Claim:
    """That an entity's attribute is (or is not) a value, in the text's own words.

    `is_hedged` marks what is said with reserve or taken back, `is_approximate` a value given as near, `has_tail` one
    that other words follow.
    """

    entity: str
    attribute: str
    value: str
    is_negated: bool = False
    is_hedged: bool = False
    is_approximate: bool = False
    has_tail: bool = False


@dataclass(slots=True)
class Extraction:
    """The claims of a text in order, without repeats, and how many of its sentences the grammar does not read."""

    claims: list[Claim] = field(default_factory=list)
    num_unread: int = 0


@dataclass(frozen=True, slots=True)
class JudgedClaim:
    """A claim, its verdict, the reason, and its keys in the knowledge base (None where it is not known)."""

    claim: Claim
    verdict: Verdict
    why: str
    entity: str | None = None
    attribute: str | None = None


def extract_claims(text: str, base: KnowledgeBase) -> Extraction:
    """Return the claims of a text by the grammar of this module. Linear in the text; nothing is raised for its form."""
    found = Extraction()
    units: list[list[Claim]] = []
    for unit in _read_units(text.replace("\u2019", "'"), base):
        if unit is _TAKEN_BACK or unit is _ALL_TAKEN_BACK:
            first = len(units) - 1 if unit is _TAKEN_BACK else 0
            units[first:] = [[replace(claim, is_hedged=True) for claim in claims] for claims in units[first:]]
        elif unit is None:
            found.num_unread += 1
            units.append([])
        else:
            units.append(unit)
    kept: dict[tuple[object, ...], Claim] = {}
    for claim in (claim for unit in units for claim in unit):
        key = _identify(claim, base)  # said again, under whatever names, a claim is no second one
        if key not in kept or claim.is_hedged:
            kept[key] = claim
    found.claims = list(kept.values())
    return found


def _identify(claim: Claim, base: KnowledgeBase) -> tuple[object, ...]:
    """Return what two claims share where they say the same."""
    entity, attribute = base.find_entity(claim.entity), base.find_attribute(claim.attribute)
    value = base.read(attribute, claim.value) if attribute is not None else None
    return (
        entity or normalise_answer(claim.entity),
        attribute or normalise_answer(claim.attribute),
        normalise_answer(claim.value) if value is None else value.keys(),
        claim.is_negated,
    )


def judge_claim(claim: Claim, base: KnowledgeBase) -> JudgedClaim:
    """Return what the knowledge base says of a claim; see the module for what is `unknown`."""
    entity, attribute = base.find_entity(claim.entity), base.find_attribute(claim.attribute)
    if entity is None or attribute is None:
        name = claim.entity if entity is None else claim.attribute
        return JudgedClaim(claim, "unknown", f"{name!r} is not known", entity, attribute)
    verdict, why = base.judge(entity, attribute, claim.value)
    if claim.is_hedged:
        verdict, why = "unknown", "said with reserve or taken back"
    elif verdict == "contradicted" and (claim.is_approximate or (claim.has_tail and not _is_known_value(claim, base))):
        verdict, why = "unknown", f"{claim.value!r} is more than a value"
    elif claim.is_negated and verdict != "unknown":
        verdict = "contradicted" if verdict == "supported" else "supported"
    return JudgedClaim(claim, verdict, why, entity, attribute)


def _is_known_value(claim: Claim, base: KnowledgeBase) -> bool:
    """Return whether a value with a comma or several words is one after all: a number, a date, another's value."""
    attribute = base.find_attribute(claim.attribute)
    value = base.read(attribute, claim.value) if attribute is not None else None
    if value is None:
        return False
    return value.quantity is not None or value.date is not None or value.text in base.value_texts


def _read_units(text: str, base: KnowledgeBase) -> Iterator[list[Claim] | None]:
    """Yield the claims of every sentence, structured line and JSON value; None for one that is not read."""
    whole = _read_json(text)
    if whole is not None:
        yield whole
        return
    block: list[str] | None = None
    is_denied = False  # below `These are false:`, until the next paragraph or such line
    for line in text.splitlines():
        is_denied = (
            (is_denied and bool(line.strip())) if not line.rstrip().endswith(":") else bool(_DENIAL.search(line))
        )
        if line.lstrip().startswith("```"):
            if block is not None:
                yield from _read_block(block, base)
            block = [] if block is None else None
        elif block is not None:
            block.append(line)
        elif line.strip():
            for claims in _read_line(line, base):
                yield [replace(claim, is_hedged=True) for claim in claims] if is_denied and claims else claims
    yield from _read_block(block or [], base)


def _read_block(lines: list[str], base: KnowledgeBase) -> Iterator[list[Claim] | None]:
    claims = _read_json("\n".join(lines))
    if claims is not None:
        yield claims
        return
    for line in lines:
        if line.strip():
            yield from _read_line(line, base)


def _read_line(line: str, base: KnowledgeBase) -> Iterator[list[Claim] | None]:
    line = _BULLET.sub("", line, count=1).strip()
    claims = _read_json(line)
    if claims is not None:
        yield claims
        return
    cells = [cell.strip() for cell in line.split("|")]
    if len(cells) == 3 and all(cells) and len(line) <= MAX_SENTENCE_CHARACTERS:
        yield _read_value(cells[0], cells[1], cells[2], base)
        return
    yield from _read_sentences(split_sentences(line), base)


def _read_sentences(sentences: list[str], base: KnowledgeBase) -> Iterator[list[Claim] | None]:
    """Yield each sentence's claims; two that are one around a known name (`Super Smash Bros. Melee`) are joined."""
    index = 0
    while index < len(sentences):
        sentence = sentences[index][:MAX_SENTENCE_CHARACTERS]
        if _RETRACTION.fullmatch(sentence) or _RETRACTION_OF_ALL.fullmatch(sentence):
            index += 1
            yield _TAKEN_BACK if _RETRACTION.fullmatch(sentence) else _ALL_TAKEN_BACK
            continue
        claims = _read_sentence(sentences[index], base)
        if claims is None and index + 1 < len(sentences):
            joined = _read_sentence(f"{sentences[index]} {sentences[index + 1]}", base)
            if joined is not None and all(base.find_entity(claim.entity) is not None for claim in joined):
                claims, index = joined, index + 1
        index += 1
        yield claims


def _read_json(text: str) -> list[Claim] | None:
    """Return the claims of a JSON text, or None where it holds anything else."""
    stripped = text.strip()
    if stripped[:1] not in ("{", "["):
        return None
    try:
        content = json.loads(stripped)
    except (ValueError, RecursionError):
        return None
    if isinstance(content, dict) and isinstance(content.get("claims"), list):
        content = content["claims"]
    rows = content if isinstance(content, list) else [content]
    claims = [_read_json_claim(row) for row in rows]
    return [claim for claim in claims if claim is not None] if rows and all(claims) else None


def _read_json_claim(row: Any) -> Claim | None:
    if not isinstance(row, dict) or not isinstance(row.get("negated", False), bool):
        return None
    cells = [row.get(name) for name in ("entity", "attribute", "value")]
    if not all(
        isinstance(cell, str | int | float) and not isinstance(cell, bool) and str(cell).strip() for cell in cells
    ):
        return None
    if len("".join(map(str, cells))) > MAX_SENTENCE_CHARACTERS:
        return None
    claim = _read_phrase(str(cells[0]), str(cells[1]), str(cells[2]))
    return replace(claim, is_negated=claim.is_negated != row.get("negated", False))


def _read_sentence(sentence: str, base: KnowledgeBase) -> list[Claim] | None:
    """Return the claims of a sentence of one of the patterns, or None."""
    if len(sentence) > MAX_SENTENCE_CHARACTERS or sentence.rstrip("\"')").endswith("?"):
        return None
    body = sentence.strip("*_\"' ").rstrip(".!")
    return _read_of(body, base) or _read_possessive(body, base) or _read_patterns(body, base)


def _read_of(body: str, base: KnowledgeBase) -> list[Claim] | None:
    """Read `The <attribute> of <entity> is <value>`; where `of` or `is` is in a name, the longest known one wins."""
    first: list[Claim] | None = None
    for split in reversed(list(_OF.finditer(body))[:_MOST_SPLITS]):
        attribute = body[: split.start()]
        if base.find_attribute(attribute) is None:
            continue
        claims, is_known = _read_rest(body[split.end() :], attribute, base)
        if is_known:
            return claims
        first = first or claims
    return first


def _read_rest(rest: str, attribute: str, base: KnowledgeBase) -> tuple[list[Claim] | None, bool]:
    """Read `<entity> is <value>`; say whether the entity is known."""
    copulas = list(_COPULA.finditer(rest))[:_MOST_SPLITS]
    for copula in reversed(copulas):
        if base.find_entity(rest[: copula.start()]) is not None:
            return _read_copula(rest, copula, rest[: copula.start()], attribute, base), True
    if not copulas:
        return None, False
    return _read_copula(rest, copulas[0], rest[: copulas[0].start()], attribute, base), False


def _read_possessive(body: str, base: KnowledgeBase) -> list[Claim] | None:
    for split in list(_POSSESSIVE.finditer(body))[:_MOST_SPLITS]:
        entity, rest = body[: split.start()], body[split.end() :]
        for copula in list(_COPULA.finditer(rest))[:_MOST_SPLITS]:
            attribute = rest[: copula.start()]
            if base.find_attribute(attribute) is not None:
                return _read_copula(rest, copula, entity, attribute, base)
    return None


def _read_copula(rest: str, copula: re.Match[str], entity: str, attribute: str, base: KnowledgeBase) -> list[Claim]:
    value = rest[copula.end() :].strip()
    return _read_value(entity, attribute, f"not {value}" if copula[1] else value, base)


def _read_patterns(body: str, base: KnowledgeBase) -> list[Claim] | None:
    folded = body.casefold()
    if len(folded) != len(body):  # positions must mean the same in both
        folded = body
    for attribute in base.attributes.values():
        for pattern in attribute.patterns:
            middle, _, end = pattern.removeprefix("{entity}").partition("{value}")
            place = folded.find(middle.casefold())
            end = end.rstrip(".").casefold()
            if place <= 0 or not folded.endswith(end) or base.find_entity(body[:place]) is None:
                continue
            value = body[place + len(middle) : len(body) - len(end)]
            if value.strip():
                return _read_value(body[:place], attribute.name, value, base)
    return None


def _read_value(entity: str, attribute: str, value: str, base: KnowledgeBase) -> list[Claim]:
    """Return one claim, or one for each value of a list where the attribute admits several."""
    claim = _read_phrase(entity, attribute, value)
    entity_key, attribute_key = base.find_entity(entity), base.find_attribute(attribute)
    if entity_key is None or attribute_key is None or not base.attributes[attribute_key].is_multiple:
        return [claim]
    if claim.is_hedged or base.judge(entity_key, attribute_key, claim.value)[0] == "supported":
        return [claim]
    if " or " in claim.value.casefold() and not claim.is_negated:
        return [replace(claim, is_hedged=True)]
    parts = [part for part in _LIST_PARTS.split(claim.value) if part.strip()]
    if len(parts) == 1:
        return [claim]
    claims = [_read_phrase(entity, attribute, part) for part in parts]
    return [replace(part, is_negated=part.is_negated != claim.is_negated) for part in claims]


def _read_phrase(entity: str, attribute: str, value: str) -> Claim:
    """Read the words around a value: negation, reserve, nearness, and what follows it."""
    value = value.strip(" \"'").rstrip(".!")
    negation = _NEGATION.match(value)
    if negation is not None:
        value = value[negation.end() :]
    if (filler := _FILLERS.match(value)) is not None:
        value = value[filler.end() :]
    approximate = _APPROXIMATE.match(value)
    if approximate is not None:
        value = value[approximate.end() :]
    return Claim(
        entity.strip(),
        attribute.strip(),
        value.strip(),
        is_negated=negation is not None,
        is_hedged=_HEDGE.match(value) is not None,
        is_approximate=approximate is not None,
        has_tail=_TAIL.search(value) is not None,
    )
