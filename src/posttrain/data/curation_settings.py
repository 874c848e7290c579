"""What a curation keeps: every filter with its bounds, in the order in which they are applied."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from posttrain.core.config import Config
from posttrain.data.contamination_index import ContaminationSettings

FormatRule = Literal["empty", "truncated", "code fence", "placeholder", "role leak", "html debris"]


_RULES: tuple[FormatRule, ...] = ("empty", "truncated", "code fence", "placeholder", "role leak", "html debris")


class LengthBounds(Config):
    """How long a part of a row may be; a bound of none does not hold. `tokens` needs a model whose tokens count."""

    of: Literal["prompt", "answer"]
    unit: Literal["characters", "words", "tokens"] = "words"
    at_least: int | None = Field(None, ge=0)
    at_most: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"at_least is {self.at_least} and at_most {self.at_most}: no row is both")
        return self


class ValueBand(Config):
    """Which rows to keep by a value that a model or scorer gives: those between two quantiles, and above a bound."""

    low: float = Field(0.0, ge=0.0, lt=1.0)
    high: float = Field(1.0, gt=0.0, le=1.0)
    at_least: float | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"the band from quantile {self.low} to {self.high} is empty")
        return self


def _bound_lengths() -> list[LengthBounds]:
    return [
        LengthBounds(of="prompt", unit="characters", at_most=20_000),
        LengthBounds(of="answer", unit="characters", at_least=1, at_most=20_000),
    ]


class CurationSettings(Config):
    """What is dropped, in this order; None or an empty list switches a filter off.

    `formats` are rules of form; `lengths` bounds of length; `languages` the languages that may be (`en`), where a text
    is long enough to tell; `refusals` drops answers that refuse; `max_repetition` is the largest share of runs of four
    words that repeat others; `exact` drops copies; `near` rows whose Jaccard index of runs of `shingle_words` words
    with a kept row reaches it; `contamination` says how evaluation items are looked for; `min_quality` is the least
    score by rules; `band` what of a model's or scorer's values is kept; `keep` how many rows are chosen for diversity,
    `quality_weight` the exponent of their quality then.
    """

    formats: list[FormatRule] = Field(default_factory=lambda: list(_RULES))
    lengths: list[LengthBounds] = Field(default_factory=_bound_lengths)
    languages: list[str] = Field(default_factory=list)
    refusals: bool = True
    max_repetition: float | None = Field(0.5, ge=0.0, le=1.0)
    exact: bool = True
    near: float | None = Field(0.7, gt=0.0, le=1.0)
    shingle_words: int = Field(3, ge=1, le=16)
    contamination: ContaminationSettings | None = Field(default_factory=ContaminationSettings)
    min_quality: float | None = Field(0.4, ge=0.0, le=1.0)
    band: ValueBand = Field(default_factory=ValueBand)
    keep: int | None = Field(None, ge=1)
    quality_weight: float = Field(1.0, ge=0.0, le=10.0)
