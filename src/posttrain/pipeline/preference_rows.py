"""The pairs or labelled rows of a stage: tokenized, kept in the run folder's cache, and shown token by token."""

from __future__ import annotations

from typing import Any, Literal, Protocol

from posttrain.chat.rendering import Renderer
from posttrain.core.protocols import Progress
from posttrain.data.mismatched import check_completions
from posttrain.data.pairs import PairData, PairSettings, PairTruncation, RenderedPair, load_pairs
from posttrain.data.unpaired import read_labels
from posttrain.pipeline.recipe import Recipe
from posttrain.pipeline.stage_rows import RowKeys, StageRows
from posttrain.pipeline.wiring import describe_sample, find_place, load_stage_rows
from posttrain.stages.kto import KtoConfig

StagePairs = StageRows[PairData]
"""The pairs or labelled rows of a stage."""


class PairKeys(RowKeys, Protocol):
    """The keys of stages whose rows are a prompt and what follows it: no completion is cut."""

    @property
    def truncation(self) -> PairTruncation:
        """What becomes of rows that are too long."""


# many parameters: those of load_stage_data, and what a row is
def load_stage_pairs(
    recipe: Recipe,
    config: PairKeys,
    renderer: Renderer,
    context_tokens: int | None,
    progress: Progress,
    *,
    kind: Literal["preference", "unpaired"] = "preference",
    splits_pairs: bool = False,
    columns: tuple[str, ...] = (),
) -> StagePairs:
    """Return a stage's pairs, tokenized now or read from the run folder's cache.

    Args:
        recipe: Says where paths start and where the cache is.
        config: The stage's configuration.
        renderer: Turns messages into tokens.
        context_tokens: The model's longest row, which `max_length: null` stands for; None if it has no limit.
        progress: Shows tokenizing.
        kind: Whether a row is a pair, or a completion with its label.
        splits_pairs: Whether a pair becomes two of the latter.
        columns: What else is kept of a row.

    Raises:
        DataError: A source cannot be read, or too many rows are bad or too long.
    """
    tokenizer: Any = renderer.tokenizer
    settings = PairSettings(
        renderer_hash=renderer.format.hash,
        tokenizer_hash=tokenizer.content_hash,
        max_length=config.max_length or context_tokens,
        truncation=config.truncation,
        max_affected_fraction=config.max_affected_fraction,
        kind=kind,
        splits_pairs=splits_pairs,
        columns=columns,
    )
    place = find_place(recipe, progress)
    return load_stage_rows(
        recipe, config, lambda sources, left_out: load_pairs(sources, renderer, settings, place, left_out), progress
    )


def check_labelled(config: KtoConfig, data: StagePairs) -> None:
    """Check the labels and completions of a KTO stage's rows.

    Raises:
        DataError: Labels, or for `loss: kto` completions, are all the same.
    """
    for place, part in (("data", data.train), ("validation", data.validation)):
        if part is not None:
            read_labels(part.sources, place)
            if config.loss == "kto":
                check_completions(part.sources, place)


def describe_pairs(data: PairData, tokenizer: Any, count: int) -> list[dict[str, Any]]:
    """Return the first rows of each source in turn, their completions token by token behind the prompt."""
    shown: list[dict[str, Any]] = []
    limit = count * max((rows.width for rows in data.sources), default=0)
    for index in range(max((len(rows) for rows in data.sources), default=0)):
        for rows in data.sources:
            if index < len(rows) and len(shown) < limit:
                pair = rows[index]
                for name, completion in zip(_name_completions(pair), pair.completions, strict=True):
                    tokens = describe_sample(pair.join(completion), tokenizer)
                    shown.append({"row_id": f"{pair.row_id} {name}", "tokens": tokens})
        if len(shown) >= limit:
            break
    return shown


def _name_completions(pair: RenderedPair) -> tuple[str, ...]:
    if len(pair.completions) == 2:
        return ("chosen", "rejected")
    label = pair.columns.get("label")
    return ("desirable" if label else "undesirable",) if isinstance(label, bool) else ("completion",)
