"""JSON Schema on a value that a model wrote: no remote references, no pattern or list that costs without bound.

`jsonschema` does the work. Three keywords are its own no longer: `pattern` and `patternProperties` run under
`patterns`' time limit, `uniqueItems` in near-linear time. A schema is trusted; what it is given is not. As the
specification says, `true` is no integer and 1.0 is one; `format` only annotates.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from typing import Any

from posttrain.core.errors import DataError
from posttrain.scorers.patterns import compile_pattern, is_found

_SHOWN_CHARACTERS = 200


def check_value(value: Any, schema: Any, *, place: str) -> str | None:
    """Return None where a parsed JSON value fulfils a schema, else the first error with the place it stands at.

    Raises:
        DataError: The schema is none, or refers to one outside itself.
        PatternTimeoutError: A pattern took too long.
    """
    from jsonschema import SchemaError
    from jsonschema.exceptions import best_match
    from referencing.exceptions import Unresolvable

    try:
        text = json.dumps(schema, sort_keys=True)
        error = best_match(_build_validator(text).iter_errors(value))
    except (SchemaError, TypeError, ValueError, Unresolvable, RecursionError) as problem:
        found = str(getattr(problem, "message", problem))[:_SHOWN_CHARACTERS]
        raise DataError(
            f"'schema' cannot be used: {found}",
            expected="a JSON Schema that refers to nothing outside itself",
            cure="correct the column, or leave the row out",
            place=place,
        ) from None
    if error is None:
        return None
    where = "/".join(str(step) for step in error.absolute_path)
    return f"{where or 'the value'}: {error.message[:_SHOWN_CHARACTERS]}"


@functools.lru_cache(maxsize=256)
def _build_validator(schema_text: str) -> Any:
    import jsonschema
    import referencing

    schema = json.loads(schema_text)
    base = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    base.check_schema(schema)
    _check_patterns(schema)
    keywords = {"pattern": _check_pattern, "patternProperties": _check_named, "uniqueItems": _check_unique}
    kind = jsonschema.validators.extend(base, keywords)
    return kind(schema, registry=referencing.Registry())  # an empty registry: nothing is fetched


def _check_patterns(schema: Any) -> None:
    """Compile every pattern at once, so that a bad one is an error of the data on every text."""
    if isinstance(schema, dict):
        for name, part in schema.items():
            if name == "pattern" and isinstance(part, str):
                compile_pattern(part)
            elif name == "patternProperties" and isinstance(part, dict):
                for pattern in part:
                    compile_pattern(pattern)
            _check_patterns(part)
    elif isinstance(schema, list):
        for part in schema:
            _check_patterns(part)


def _check_pattern(validator: Any, pattern: str, value: Any, schema: Any) -> Iterator[Any]:
    from jsonschema import ValidationError

    if validator.is_type(value, "string") and not is_found(pattern, value):
        yield ValidationError(f"does not match {pattern!r}")


def _check_named(validator: Any, named: dict[str, Any], value: Any, schema: Any) -> Iterator[Any]:
    if validator.is_type(value, "object"):
        for pattern, part in named.items():
            for name, inner in value.items():
                if is_found(pattern, name):
                    yield from validator.descend(inner, part, path=name, schema_path=pattern)


def _check_unique(validator: Any, is_wanted: bool, value: Any, schema: Any) -> Iterator[Any]:
    from jsonschema import ValidationError

    if is_wanted and validator.is_type(value, "array"):
        forms = {json.dumps(_normalise(item), sort_keys=True) for item in value}
        if len(forms) < len(value):
            yield ValidationError("has the same item twice")


def _normalise(value: Any) -> Any:
    """Return a value in which equal numbers look equal: 1 and 1.0, not true."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_normalise(item) for item in value]
    if isinstance(value, dict):
        return {name: _normalise(item) for name, item in value.items()}
    return value
