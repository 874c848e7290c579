"""Other names of what a knowledge base knows: read from its rows, followed to their end, refused where ambiguous."""

from __future__ import annotations

from collections.abc import Mapping

from posttrain.core.errors import DataError
from posttrain.scorers.knowledge_rows import Tables, read_names, read_text
from posttrain.scorers.typed_values import normalise_answer


def collect_aliases(tables: Tables, own: Mapping[str, Mapping[str, object]]) -> dict[str, dict[str, str]]:
    """Return, for each kind, what every other name stands for in the end, all normalised.

    Args:
        tables: The rows, each with its place.
        own: The entities and attributes that have facts, by kind and key.

    Raises:
        DataError: An alias stands for two things, for nothing, for itself or for another that has facts of its own; is
            given twice; or goes round in a circle.
    """
    given: dict[str, dict[str, tuple[str, str]]] = {"entity": {}, "attribute": {}, "value": {}}
    for row in tables.aliases:
        kind = read_text(row, "kind")
        if kind not in given:
            raise DataError(
                f"'kind' is {kind!r}", expected=", ".join(given), cure="name what it is an alias of", place=row.place
            )
        _note_alias(given[kind], read_text(row, "alias"), read_text(row, "name"), row.place, is_repeat_allowed=False)
    for row in [*tables.facts, *tables.attributes]:
        for column in ("entity", "attribute", "value"):
            if (cell := row.cells.get(f"{column}_aliases")) is None:
                continue
            names = read_names(cell)
            if len({normalise_answer(name) for name in names}) < len(names):
                raise DataError(
                    f"'{column}_aliases' holds a name twice: {cell!r}", cure="keep one of them", place=row.place
                )
            for name in names:
                _note_alias(given[column], name, read_text(row, column), row.place, is_repeat_allowed=True)
    return {
        kind: {alias: _follow(kind, alias, aliases, own[kind]) for alias in aliases} for kind, aliases in given.items()
    }


def _note_alias(
    aliases: dict[str, tuple[str, str]], alias: str, name: str, place: str, *, is_repeat_allowed: bool
) -> None:
    key, target = normalise_answer(alias), normalise_answer(name)
    if key == target:
        raise DataError(f"the alias '{alias}' is the name '{name}' itself", cure="remove the alias", place=place)
    earlier = aliases.setdefault(key, (target, place))
    if earlier[0] != target:
        raise DataError(
            f"the alias '{alias}' stands for '{name}', and for '{earlier[0]}' at {earlier[1]}",
            expected="one thing for one name",
            cure="remove the alias from one of them, or make it longer",
            place=place,
        )
    if earlier[1] != place and not is_repeat_allowed:
        raise DataError(f"the alias '{alias}' is given at {earlier[1]} too", cure="remove one", place=place)


def _follow(kind: str, alias: str, aliases: Mapping[str, tuple[str, str]], own: Mapping[str, object]) -> str:
    """Return what an alias stands for in the end."""
    passed = [alias]
    place = aliases[alias][1]
    if alias in own:
        raise DataError(
            f"'{alias}' is an {kind} of its own and an alias of '{aliases[alias][0]}'",
            cure="remove the alias, or merge the two",
            place=place,
        )
    while (last := passed[-1]) in aliases:
        following = aliases[last][0]
        if following in passed:
            raise DataError(
                f"aliases go round in a circle: {' -> '.join([*passed, following])}",
                expected="aliases that end at a name",
                cure="remove one of them",
                place=place,
            )
        passed.append(following)
    if kind != "value" and passed[-1] not in own:
        raise DataError(
            f"the alias '{alias}' is one of '{passed[-1]}', of which there is no fact",
            cure="correct the name, or add a fact",
            place=place,
        )
    return passed[-1]
