"""Tokenizes demonstrations and documents once, and keeps them on disk by content hash.

Rows are rendered in batches and cut by the truncation policy. Only `chat/rendering.py` makes tokens; nothing here looks
at what a token is. A second start with the same content, settings, template and tokenizer reads the store
(`data.tokenizing`) and tokenizes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from posttrain.chat.rendering import SampleRequest
from posttrain.core.errors import DataError, TemplateError
from posttrain.core.records import Example, Message, RenderedSample, TokenRows
from posttrain.data.examples import drop_bad_row
from posttrain.data.ledger import Ledger
from posttrain.data.rows import BadRow
from posttrain.data.sources import DataSource
from posttrain.data.tokenizing import (
    DataPlace,
    RowRendering,
    SampleRenderer,
    SourceJob,
    TokenizedRow,
    add_up,
    describe_template_error,
    load_sources,
)
from posttrain.data.truncation import (
    TOO_LONG,
    TruncationPolicy,
    cut_completion,
    cut_oldest_turn,
    is_trained,
    split_document,
)

TOKENIZING_VERSION = 1
"""Part of every key: raised whenever the same rows and settings would give other tokens."""

NOT_TRAINED = "no trained token"


@dataclass(frozen=True, slots=True)
class TokenizeSettings:
    """What decides the tokens of a row, beside the row.

    Made by the wiring of a stage. `mode` is `chat` (conversations, and documents whole) or `full_text`
    (documents, split at `max_length`, no token lost). `max_length` is in tokens, None for no limit.
    `renderer_hash` names template, date and template arguments, `tokenizer_hash` the vocabulary.
    """

    renderer_hash: str
    tokenizer_hash: str
    mode: Literal["chat", "full_text"] = "chat"
    max_length: int | None = None
    truncation: TruncationPolicy = "refuse"
    max_affected_fraction: float = 0.005
    train_on: Literal["assistant", "last_assistant", "all"] = "assistant"

    def __post_init__(self) -> None:
        least = 3 if self.mode == "full_text" else 2
        if self.max_length is not None and self.max_length < least:
            raise DataError(f"max_length of {self.max_length} tokens", expected=f"at least {least}", place="max_length")

    def identity(self) -> dict[str, object]:
        """Return what the tokens depend on: `refuse` and `drop` give the same rows and differ in a check."""
        return {
            "renderer": self.renderer_hash,
            "tokenizer": self.tokenizer_hash,
            "mode": self.mode,
            "max_length": self.max_length,
            "truncation": "drop" if self.truncation == "refuse" else self.truncation,
            "train_on": self.train_on,
            "version": TOKENIZING_VERSION,
        }


@dataclass(frozen=True, slots=True)
class TokenizedData:
    """Tokenized rows, one `TokenRows` a source, and what became of every row.

    Made by `load_token_rows`, read by stages. `num_tokenized` counts the data rows that were tokenized
    now rather than read from the store. `ledger` is the sum of `ledgers`, one a source.
    """

    rows: list[TokenRows]
    ledger: Ledger
    num_tokenized: int
    ledgers: list[Ledger] = field(default_factory=list)


def load_token_rows(
    sources: Sequence[DataSource],
    renderer: SampleRenderer,
    settings: TokenizeSettings,
    place: DataPlace,
    contaminated: Sequence[Mapping[str, str]] = (),
) -> TokenizedData:
    """Return the tokenized rows of some sources, from the store where they are in it.

    Args:
        sources: What to read, in order.
        renderer: Turns messages and documents into tokens.
        settings: What decides the tokens of a row.
        place: Where sources and store lie.
        contaminated: For each source the rows that are left out, by id, with what they hold; empty: none of any.

    Raises:
        DataError: A source cannot be read, has more bad or overlong rows than it may, or gives no row.
        StorageError: The store cannot be written.
    """
    stored = load_sources(sources, _Demonstrations(settings, renderer), place, contaminated)
    return TokenizedData([source.rows for source in stored], *add_up(stored))


@dataclass(frozen=True)
class _Demonstrations(RowRendering[TokenizeSettings]):
    """Rows as samples to be imitated."""

    def tokenize(self, job: SourceJob, batch: list[Example]) -> Iterator[TokenizedRow]:
        limit, settings = self.settings.max_length, self.settings
        work = _Work(job.source, job.ledger, settings, self.renderer)
        for example, samples in zip(batch, _render(work, batch), strict=True):
            if isinstance(samples, BadRow):
                drop_bad_row(job.source, job.ledger, samples)
                continue
            num_tokens = _count(samples)
            if settings.mode == "full_text" and limit is not None:
                samples = [piece for sample in samples for piece in split_document(sample, limit)]
            elif limit is not None and settings.truncation == "cut_oldest_turn" and not _fit(samples, limit):
                samples = _cut_turns(work, example, samples, limit)
            kept = _account(work, example, samples, num_tokens)
            if kept:
                yield TokenizedRow(example.row_id, kept)


@dataclass(frozen=True, slots=True)
class _Work:
    """One source's rows and what becomes of them."""

    source: DataSource
    ledger: Ledger
    settings: TokenizeSettings
    renderer: SampleRenderer


def _count(samples: list[RenderedSample]) -> int:
    return sum(len(sample.ids_T) for sample in samples)


def _fit(samples: list[RenderedSample], limit: int) -> bool:
    return all(len(sample.ids_T) <= limit for sample in samples)


def _render(work: _Work, batch: list[Example]) -> list[list[RenderedSample] | BadRow]:
    """Return each example's samples, or why there are none, in order."""
    rendered: list[list[RenderedSample] | BadRow] = [[] for _ in batch]
    conversations: list[int] = []
    for index, example in enumerate(batch):
        if example.kind == "text":
            try:
                rendered[index] = [work.renderer.render_document(example.text)]
            except TemplateError as error:
                rendered[index] = describe_template_error(example, error)
        elif example.kind == "messages" and work.settings.mode == "chat":
            conversations.append(index)
        else:
            rendered[index] = _describe_wrong_kind(work, example)
    requests = [_request(work, batch[index].messages, batch[index]) for index in conversations]
    for index, samples in zip(conversations, work.renderer.render_samples(requests) if requests else [], strict=True):
        if isinstance(samples, TemplateError):
            rendered[index] = describe_template_error(batch[index], samples)
        else:
            rendered[index] = samples
    return rendered


def _request(work: _Work, messages: list[Message], example: Example, first_trained: int | None = None) -> SampleRequest:
    first = example.first_trained if first_trained is None else first_trained
    return SampleRequest(messages, example.tools, first, work.settings.train_on)


def _describe_wrong_kind(work: _Work, example: Example) -> BadRow:
    others = ", ".join(sorted(example.columns)) or "none"
    if work.settings.mode == "full_text":
        detail, cure = f"a row of the type '{example.kind}' in mode full_text", "use mode: chat, or rows with 'text'"
    elif example.kind == "prompt":
        detail = f"a prompt without a completion; other columns: {others}"
        cure = "map the answer: columns: {completion: <your column>}"
    else:
        detail, cure = (
            f"a row of the type '{example.kind}'",
            "give demonstrations: messages, prompt and completion, or text",
        )
    return BadRow(example.row_id, example.row_id, "nothing to imitate", detail, cure)


def _cut_turns(work: _Work, example: Example, samples: list[RenderedSample], limit: int) -> list[RenderedSample]:
    """Return the samples of the longest end of a conversation that fits, or those of its last turn."""
    messages, first_trained = example.messages, example.first_trained
    while not _fit(samples, limit):
        shorter = cut_oldest_turn(messages, first_trained)
        if shorter is None:
            break
        messages, first_trained = shorter
        result = work.renderer.render_samples([_request(work, messages, example, first_trained)])[0]
        if isinstance(result, TemplateError):
            break  # the template needs the turns that would be cut: what is too long is dropped
        samples = result
    return samples


def _account(work: _Work, example: Example, samples: list[RenderedSample], num_tokens: int) -> list[RenderedSample]:
    """Return the samples that are trained on, after entering into the ledger what is kept and what is lost."""
    limit, policy = work.settings.max_length, str(work.settings.identity()["truncation"])
    longest = max((len(sample.ids_T) for sample in samples), default=0)
    is_too_long = limit is not None and longest > limit
    is_stop_cut = False
    if limit is not None and is_too_long and policy == "cut_completion":
        pairs = [cut_completion(sample, limit) for sample in samples]
        samples = [sample for sample, _ in pairs]
        is_stop_cut = any(is_cut and is_trained(sample) for sample, is_cut in pairs)
    kept = [sample for sample in samples if is_trained(sample) and (limit is None or len(sample.ids_T) <= limit)]
    if not kept:
        if is_too_long:
            detail = f"{longest:,} tokens"
            work.ledger.drop(example.row_id, TOO_LONG, kind="length", tokens=num_tokens, detail=detail)
        else:
            work.ledger.drop(example.row_id, NOT_TRAINED, kind="empty", tokens=num_tokens)
        return []
    num_kept = _count(kept)
    num_trained = sum(int(sample.is_trainable_T[1:].sum()) for sample in kept)
    work.ledger.train(samples=len(kept), tokens=num_kept, tokens_trained=num_trained)
    if num_kept != num_tokens:
        cause = policy if is_too_long or policy == "cut_oldest_turn" else NOT_TRAINED
        detail = f"{num_tokens:,} tokens, {num_kept:,} kept"
        lost = num_tokens - num_kept
        work.ledger.shorten(example.row_id, cause, tokens=lost, detail=detail, is_stop_cut=is_stop_cut)
    return kept
