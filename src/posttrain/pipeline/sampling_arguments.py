"""How to draw, as it is typed at the command line: options become settings, contradictions are refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from posttrain.core.errors import RecipeError
from posttrain.core.sampling import SamplingSettings, TokenConstraint


@dataclass(frozen=True, slots=True)
class SamplingArguments:
    """What was typed; None is what was left out. Made by the command line, read by `build_settings`."""

    max_new_tokens: int = 256
    temperature: float | None = None
    is_greedy: bool = False
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    num_samples: int = 1
    stop_strings: Sequence[str] = ()
    ignore_eos: bool = False
    top_logprobs: int = 0
    json_schema: Path | None = None
    regex: str | None = None


def build_settings(arguments: SamplingArguments) -> SamplingSettings:
    """Return the settings that are meant; the temperature is 1 unless another or `--greedy` is given.

    Raises:
        RecipeError: A value is outside its range, two contradict one another, or the schema is not JSON.
    """
    temperature = 1.0 if arguments.temperature is None else arguments.temperature
    if arguments.is_greedy:
        if arguments.temperature not in (None, 0.0):
            raise _refuse_pair(f"--greedy with --temperature {arguments.temperature:g}", "--greedy")
        temperature = 0.0
    return SamplingSettings(
        max_new_tokens=arguments.max_new_tokens,
        temperature=temperature,
        top_p=arguments.top_p,
        top_k=arguments.top_k,
        min_p=arguments.min_p,
        repetition_penalty=arguments.repetition_penalty,
        num_samples=arguments.num_samples,
        stop_strings=tuple(arguments.stop_strings),
        ignore_eos=arguments.ignore_eos,
        top_logprobs=arguments.top_logprobs,
        constraint=_build_constraint(arguments.json_schema, arguments.regex),
    )


def _build_constraint(schema: Path | None, regex: str | None) -> TokenConstraint | None:
    if schema is not None and regex is not None:
        raise _refuse_pair("--json-schema with --regex", "--regex")
    if regex is not None:
        return TokenConstraint("regex", regex)
    if schema is None:
        return None
    return TokenConstraint("json_schema", _read_schema(schema))


def _read_schema(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
        json.loads(text)
    except OSError as error:
        found = f"it cannot be read: {error.strerror or error}"
    except (ValueError, RecursionError) as error:
        found = f"it is not JSON: {error}"
    else:
        return text
    raise RecipeError(
        found, expected="a file that holds a JSON Schema", cure="correct the path or the file", place=str(path)
    )


def _refuse_pair(found: str, place: str) -> RecipeError:
    return RecipeError(found, expected="one of the two", cure="leave one out", place=place)
