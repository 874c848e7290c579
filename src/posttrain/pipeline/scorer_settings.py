"""What a recipe may say of a scorer: a name, or a mapping with `type` and the keys of that type.

Every class here is the keys of one scorer, with the defaults and ranges of its constructor; `pipeline/scorers.py`
builds it. A reference to a user's own scorer (`rewards.py:brevity`) may stand alone, or under the type `function`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from posttrain.core.config import Config, optional_field, parse_config, suggest
from posttrain.core.errors import RecipeError
from posttrain.lab.world import WORLD_SEED


class ExactMatchSettings(Config):
    """The text equals the answer after normalisation."""

    type: Literal["exact_match"] = "exact_match"


class ReasoningSettings(Config):
    """The block of reasoning that is no part of an answer; `reasoning_tag: null` judges the whole text.

    `reasoning_opened_by_prompt` says whether the chat template writes the opening tag; null takes a closing tag alone
    for that (`scorers.reasoning`).
    """

    reasoning_tag: str | None = Field("think", pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")
    reasoning_opened_by_prompt: bool | None = False


class AnswerSettings(ReasoningSettings):
    """Reasoning before an answer that is looked for: nothing else is judged."""

    reasoning_opened_by_prompt: bool | None = None


Extraction = Literal["boxed", "hashes", "phrase", "last_number", "whole"]


class MathSettings(AnswerSettings):
    """A mathematical answer in a declared form, compared exactly."""

    type: Literal["math"] = "math"
    answer_form: str = "value"
    extraction: list[Extraction] = Field(default=["boxed", "hashes", "phrase"], min_length=1)
    is_comma_decimal: bool = False


class CodeSettings(Config):
    """A program that passes hidden tests, each in a sandboxed process of its own."""

    type: Literal["code"] = "code"
    scoring: Literal["all", "fraction"] = "all"
    types: Literal["exact", "loose"] = "exact"
    relative_tolerance: float = Field(1e-6, ge=0, lt=1)
    absolute_tolerance: float = Field(1e-9, ge=0)
    cpu_seconds: float = Field(2.0, gt=0, le=600)
    wall_seconds: float = Field(10.0, gt=0, le=3600)
    memory_mb: int = Field(512, ge=16, le=1 << 20)
    tier: Literal["auto", "bubblewrap", "landlock"] = "auto"


class ShortAnswerSettings(AnswerSettings):
    """A short answer that equals one of the gold answers or their aliases."""

    type: Literal["short_answer"] = "short_answer"
    answer_marker: str | None = None
    ignore_accents: bool = False
    relative_tolerance: float = Field(0.0, ge=0, lt=1)


class FactsSettings(AnswerSettings):
    """Claims of a text looked up in a knowledge base (JSON, SQLite or CSV)."""

    type: Literal["facts"] = "facts"
    knowledge_base: str = Field(min_length=1)
    value: Literal["precision", "all_or_nothing", "f1"] = "precision"
    unknown_weight: float = Field(0.0, ge=0, le=1)
    count_negations: bool = False


class CitationsSettings(AnswerSettings):
    """Citations that resolve and support what cites them."""

    type: Literal["citations"] = "citations"
    pattern: str | None = None
    knowledge_base: str | None = None
    undecided_value: float = Field(0.0, ge=0, le=1)


class ProofSettings(AnswerSettings):
    """A proof that a checker accepts: natural deduction, Z3, or Lean 4 where it is installed and isolated."""

    type: Literal["proof"] = "proof"
    checker: Literal["kernel", "z3", "lean"] = "kernel"
    logic: Literal["classical", "intuitionistic"] = "classical"
    requires_model: bool = True
    is_isolated: bool = False


class InstructionsSettings(ReasoningSettings):
    """IFEval's and IFBench's verifiable instructions."""

    type: Literal["instructions"] = "instructions"
    value: Literal["prompt_strict", "prompt_loose", "instruction_strict", "instruction_loose"] = "prompt_strict"


class StructureSettings(ReasoningSettings):
    """A form rule: JSON, a schema, a regular expression, tags, markdown, counts."""

    type: Literal["structure"] = "structure"
    rule: dict[str, Any] | None = None


class ToolCallsSettings(ReasoningSettings):
    """Calls of the right tools with the right arguments."""

    type: Literal["tool_calls"] = "tool_calls"
    syntax: Literal["any", "python", "json", "openai", "hermes"] = "any"
    mode: Literal["match", "valid"] = "match"
    strings: Literal["lenient", "exact"] = "lenient"
    allows_text: bool = False
    allows_fence: bool = False


class RefusalsSettings(ReasoningSettings):
    """Refusal or compliance, by rules."""

    type: Literal["refusals"] = "refusals"
    wanted: Literal["refusal", "compliance", "column"] = "refusal"
    partial: float = Field(0.5, ge=0, le=1)


class PersonalDataSettings(Config):
    """No personal data and no secrets."""

    type: Literal["personal_data"] = "personal_data"
    phone_region: str | None = Field(None, pattern=r"^[A-Z]{2}$")
    allows_prompt: bool = True
    ignores_examples: bool = True


Unit = Literal["tokens", "characters", "words"]


class LengthSettings(Config):
    """A length within a band."""

    type: Literal["length"] = "length"
    low: int = Field(0, ge=0)
    high: int = Field(ge=0)
    slope: float | None = Field(None, gt=0)
    unit: Unit = "tokens"


class OverlongSettings(Config):
    """DAPO's soft penalty of over-long completions, in [-1, 0]."""

    type: Literal["overlong"] = "overlong"
    max_length: int = Field(ge=1)
    cache: int = Field(ge=1)
    unit: Unit = "tokens"


class CosineLengthSettings(Config):
    """Right completions are worth more the shorter, wrong ones the longer they are."""

    type: Literal["cosine_length"] = "cosine_length"
    correctness: str | dict[str, Any]
    max_length: int = Field(ge=1)
    right: list[float] = Field(default_factory=lambda: [1.0, 0.5], min_length=2, max_length=2)
    wrong: list[float] = Field(default_factory=lambda: [-1.0, -0.5], min_length=2, max_length=2)
    exceeded: float = -1.0
    threshold: float = 1.0
    unit: Unit = "tokens"


class LanguageSettings(ReasoningSettings):
    """The language of the text."""

    type: Literal["language"] = "language"
    language: str | None = None
    by_paragraph: bool = False


class RepetitionSettings(Config):
    """Little repetition."""

    type: Literal["repetition"] = "repetition"
    measure: Literal["ngrams", "longest_repeat", "compression"] = "ngrams"
    allowed: float = Field(0.1, ge=0, lt=1)
    n: int = Field(4, ge=1)
    unit: Unit = "words"


class ComponentSettings(Config):
    """One scorer's part in a weighted one; see `scorers.weighted.Component`."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")
    scorer: str | dict[str, Any]
    weight: float = 1.0
    role: Literal["term", "gate", "shaping"] = "term"
    value_range: list[float] | None = Field(None, min_length=2, max_length=2)
    threshold: float | None = None


class WeightedSettings(Config):
    """Several scorers as one: terms are averaged, gates multiply, shaping adds."""

    type: Literal["weighted"] = "weighted"
    components: list[ComponentSettings] = Field(min_length=1)

    @field_validator("components")
    @classmethod
    def _check_nested(cls, value: list[ComponentSettings]) -> list[ComponentSettings]:
        for component in value:
            read_scorer(component.scorer, place=component.name)
        return value


class PressureSettings(Config):
    """A question under pressure, judged by another scorer: by its answer, and by what the user claimed."""

    type: Literal["pressure"] = "pressure"
    scorer: str | dict[str, Any] = "exact_match"

    @field_validator("scorer")
    @classmethod
    def _check_nested(cls, value: str | dict[str, Any]) -> str | dict[str, Any]:
        read_scorer(value, place="scorer")
        return value


class LabSettings(Config):
    """The truth about a reply to one of the lab's own questions."""

    type: Literal["lab"] = "lab"
    value: Literal["correct", "gold"] = "correct"
    takes_prose: bool = False
    world_seed: int = Field(WORLD_SEED, ge=0)


class LearnedSettings(Config):
    """A reward model: of a stage before this one, by its name, or of a folder."""

    type: Literal["learned"] = "learned"
    model: str = Field(min_length=1)
    weights: dict[str, float] = Field(default_factory=dict)
    aggregation: Literal["mean", "worst_case", "mean_minus_variance"] = "mean"
    variance_weight: float = Field(1.0, ge=0)
    step_aggregation: Literal["min", "product", "last"] = "min"
    members: list[int] | None = optional_field(None, min_length=1, description="of an ensemble, from 0; None: all")
    length_penalty: Literal["fitted"] | None = None
    failed_value: float = -4.0
    dtype: Literal["float32", "bfloat16"] = "float32"
    micro_batch_tokens: int = Field(8192, ge=1)

    @model_validator(mode="after")
    def _check_members(self) -> LearnedSettings:
        chosen = self.members or []
        if len(set(chosen)) < len(chosen) or any(number < 0 for number in chosen):
            raise ValueError("members: each is named once, by its number from 0")
        if chosen and self.length_penalty is not None:
            raise ValueError("length_penalty was fitted to all members together; leave it or members out")
        return self


class FunctionSettings(Config):
    """The user's own function or scorer, as `file.py:name` or an entry point; its reference alone will do.

    A call that takes longer than `timeout_seconds` is given up and counts as the harness's failure. Such calls run in a
    thread; a function that must be called in this one, since it sets signals, needs `timeout_seconds: null`.
    """

    type: Literal["function"] = "function"
    reference: str = Field(min_length=1)
    timeout_seconds: float | None = Field(600.0, gt=0)


SCORERS: dict[str, type[Config]] = {
    kind.model_fields["type"].default: kind
    for kind in (
        ExactMatchSettings, MathSettings, CodeSettings, ShortAnswerSettings, FactsSettings, CitationsSettings,
        ProofSettings, InstructionsSettings, StructureSettings, ToolCallsSettings, RefusalsSettings,
        PersonalDataSettings, LengthSettings, OverlongSettings, CosineLengthSettings, LanguageSettings,
        RepetitionSettings, WeightedSettings, PressureSettings, LabSettings,
        LearnedSettings, FunctionSettings,
    )
}  # fmt: skip
"""The keys of every built-in scorer, by its type."""


def read_scorer(value: str | Mapping[str, Any], *, place: str) -> Config:
    """Return a scorer's settings; a text that names no built-in scorer is the reference of a user's own.

    Raises:
        RecipeError: No such type, an unknown key, or a value out of its range.
    """
    values = {"type": value} if isinstance(value, str) else dict(value)
    name = values.get("type")
    if isinstance(value, str) and value and value not in SCORERS:
        return FunctionSettings(reference=value)
    if not isinstance(name, str) or name not in SCORERS:
        raise RecipeError(
            f"a scorer of the type {name!r}" if "type" in values else "a scorer without a type",
            expected="one of " + ", ".join(SCORERS),
            cure=suggest(str(name), SCORERS),
            place=place,
        )
    return parse_config(SCORERS[name], values, place=place)


def list_parts(value: str | Mapping[str, Any], *, place: str) -> Iterator[Config]:
    """Yield a scorer's settings, and those of the scorers inside it."""
    found = read_scorer(value, place=place)
    yield found
    inner = [part.scorer for part in found.components] if isinstance(found, WeightedSettings) else []
    if isinstance(found, CosineLengthSettings):
        inner = [found.correctness]
    if isinstance(found, PressureSettings):
        inner = [found.scorer]
    for part in inner:
        yield from list_parts(part, place=place)
