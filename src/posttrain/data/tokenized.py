"""Tokenizes the rows of data sources once, and keeps them on disk by content hash.

Rows stream through: read, understood, rendered in batches, cut by the truncation policy, appended to
the store. Only `chat/rendering.py` makes tokens; nothing here looks at what a token is. A second start
with the same content, settings, template and tokenizer reads the store and tokenizes nothing.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from posttrain.chat.rendering import SampleRequest
from posttrain.core.durable import remove_temporaries, storage_errors, write_folder
from posttrain.core.errors import DataError, TemplateError
from posttrain.core.hashing import hash_json
from posttrain.core.protocols import Progress, RowSource
from posttrain.core.records import Example, Message, RenderedSample, TokenRows
from posttrain.data.examples import check_bad_fraction, drop_bad_row, iterate_examples
from posttrain.data.ledger import Ledger
from posttrain.data.rows import BadRow
from posttrain.data.sources import DataSource, fingerprint
from posttrain.data.token_store import DamagedStoreError, TokenWriter, read_token_rows, write_manifest
from posttrain.data.truncation import (
    TOO_LONG,
    TruncationPolicy,
    check_affected,
    cut_completion,
    cut_oldest_turn,
    is_trained,
    split_document,
)

TOKENIZING_VERSION = 1
"""Part of every key: raised whenever the same rows and settings would give other tokens."""

BATCH_ROWS = 256
BATCH_CHARACTERS = 4_000_000
NOT_TRAINED = "no trained token"
CONTAMINATED = "contaminated"
"""The reason of rows that are left out because they hold evaluation items."""


class SampleRenderer(Protocol):
    """What tokenizing needs of `chat.rendering.Renderer`."""

    def render_samples(self, requests: Sequence[SampleRequest]) -> list[list[RenderedSample] | TemplateError]:
        """Return each conversation's samples, or the error that stands in their place."""

    def render_document(self, text: str) -> RenderedSample:
        """Return a raw document's tokens, with the tokenizer's BOS and EOS around them."""


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


class NothingTrainedError(DataError):
    """Of a source no row is left to train on; `ledger` says what became of them."""

    ledger: Ledger


# many parameters: what is read, what makes tokens of it, where both lie, and what is left out
def load_token_rows(
    sources: Sequence[DataSource],
    renderer: SampleRenderer,
    settings: TokenizeSettings,
    *,
    root: Path,
    cache: Path,
    row_source: RowSource | None = None,
    progress: Progress | None = None,
    contaminated: Sequence[Mapping[str, str]] = (),
) -> TokenizedData:
    """Return the tokenized rows of some sources, from the store where they are in it.

    Args:
        sources: What to read, in order.
        renderer: Turns messages and documents into tokens.
        settings: What decides the tokens of a row.
        root: The folder that relative paths start from.
        cache: The folder of the store; processes may share it.
        row_source: Opens `lab:` sets.
        progress: Shows how far it has come.
        contaminated: For each source the rows that are left out, by id, with what they hold; empty: none of any.

    Raises:
        DataError: A source cannot be read, has more bad or overlong rows than it may, or gives no row.
        StorageError: The store cannot be written.
    """
    total, rows, ledgers, num_tokenized = Ledger(), [], [], 0
    left_out = contaminated or [{}] * len(sources)
    for source, rows_out in zip(sources, left_out, strict=True):
        job = _Job(source, settings, renderer, root, row_source, progress, rows_out)
        token_rows, ledger, num_now = _load_source(job, cache)
        _check_ledger(job, ledger)
        rows.append(token_rows)
        ledgers.append(ledger)
        total.merge(ledger)
        num_tokenized += num_now
    return TokenizedData(rows, total, num_tokenized, ledgers)


@dataclass(slots=True)
class _Job:
    """Tokenizing one source."""

    source: DataSource
    settings: TokenizeSettings
    renderer: SampleRenderer
    root: Path
    row_source: RowSource | None
    progress: Progress | None
    contaminated: Mapping[str, str] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)


def _load_source(job: _Job, cache: Path) -> tuple[TokenRows, Ledger, int]:
    content = fingerprint(job.source, root=job.root, row_source=job.row_source)
    left_out = {"contaminated": sorted(job.contaminated.items())} if job.contaminated else {}
    key = hash_json({"content": content, **job.settings.identity(), **left_out})
    place = cache / key
    with _lock(place):
        if (place / "rows").exists():
            try:
                return (*read_token_rows(place / "rows", key), 0)
            except DamagedStoreError as error:
                if job.progress is not None:
                    job.progress.note(f"tokenized rows of {job.source.source} are damaged ({error}): tokenizing again")
                with storage_errors(place):
                    shutil.rmtree(place / "rows")
        remove_temporaries(place)
        write_folder(place / "rows", lambda folder: _build(job, folder, key, content))
        return (*read_token_rows(place / "rows", key), job.ledger.rows_in)


@contextmanager
def _lock(place: Path) -> Iterator[None]:
    """Hold a store entry; a second process waits and then finds it built."""
    with storage_errors(place):
        place.mkdir(parents=True, exist_ok=True)
        file = (place / "lock").open("ab")
    with file:
        with storage_errors(place):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(job: _Job, folder: Path, key: str, content: str) -> None:
    """Tokenize a source into a folder."""
    examples = _leave_out(job, iterate_examples(job.source, job.ledger, root=job.root, row_source=job.row_source))
    if job.progress is not None:
        job.progress.start(f"tokenizing {job.source.source}", job.source.rows or 0, unit="row")
    try:
        with TokenWriter(folder) as writer:
            for batch in _batch(examples):
                for example, samples in _tokenize(job, batch):
                    for sample in samples:
                        writer.add(example.row_id, sample)
                if job.progress is not None:
                    job.progress.advance(len(batch), tokens=job.ledger.tokens_in)
    finally:
        if job.progress is not None:
            job.progress.finish()
    if job.ledger.rows_trained == 0:
        _check_ledger(job, job.ledger)
    if fingerprint(job.source, root=job.root, row_source=job.row_source) != content:
        raise DataError(
            "the data changed while it was read", cure="start again when it is whole", place=job.source.source
        )
    write_manifest(folder, key, job.ledger)


def _leave_out(job: _Job, examples: Iterable[Example]) -> Iterator[Example]:
    """Yield the examples that hold no evaluation item; the others are counted."""
    for example in examples:
        found = job.contaminated.get(example.row_id)
        if found is None:
            yield example
        else:
            job.ledger.drop(example.row_id, CONTAMINATED, kind="contaminated", detail=found)


def _check_ledger(job: _Job, ledger: Ledger) -> None:
    """Check what the recipe allows to be lost; kept apart from building, so that it holds for stored rows too."""
    ledger.check_balance()
    check_bad_fraction(job.source, ledger)
    try:
        check_affected(ledger, job.settings.truncation, job.settings.max_length, job.settings.max_affected_fraction)
    except DataError as error:
        raise DataError(error.found, expected=error.expected, cure=error.cure, place=job.source.source) from None
    if ledger.rows_trained == 0:
        reasons = "; ".join(f"{reason}: {entry.rows:,} rows" for reason, entry in ledger.dropped.items())
        nothing = NothingTrainedError(
            f"no row is left to train on ({reasons})",
            expected="at least one row with a trained token",
            cure="see the reasons; every row that was dropped has one",
            place=job.source.source,
        )
        nothing.ledger = ledger
        raise nothing


def _batch(examples: Iterable[Example]) -> Iterator[list[Example]]:
    """Yield examples in lists that are bounded in rows and in text."""
    batch: list[Example] = []
    characters = 0
    for example in examples:
        batch.append(example)
        characters += len(example.text) + sum(len(message.get("content") or "") for message in example.messages)
        if len(batch) >= BATCH_ROWS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _tokenize(job: _Job, batch: list[Example]) -> Iterator[tuple[Example, list[RenderedSample]]]:
    """Yield the samples that are kept of each example, and account for all of them."""
    rendered = _render(job, batch)
    limit = job.settings.max_length
    for example, samples in zip(batch, rendered, strict=True):
        if isinstance(samples, BadRow):
            drop_bad_row(job.source, job.ledger, samples)
            continue
        num_tokens = _count(samples)
        if job.settings.mode == "full_text" and limit is not None:
            samples = [piece for sample in samples for piece in split_document(sample, limit)]
        elif limit is not None and job.settings.truncation == "cut_oldest_turn" and not _fit(samples, limit):
            samples = _cut_turns(job, example, samples, limit)
        kept = _account(job, example, samples, num_tokens)
        if kept:
            yield example, kept


def _count(samples: list[RenderedSample]) -> int:
    return sum(len(sample.ids_T) for sample in samples)


def _fit(samples: list[RenderedSample], limit: int) -> bool:
    return all(len(sample.ids_T) <= limit for sample in samples)


def _render(job: _Job, batch: list[Example]) -> list[list[RenderedSample] | BadRow]:
    """Return each example's samples, or why there are none, in order."""
    rendered: list[list[RenderedSample] | BadRow] = [[] for _ in batch]
    conversations: list[int] = []
    for index, example in enumerate(batch):
        if example.kind == "text":
            try:
                rendered[index] = [job.renderer.render_document(example.text)]
            except TemplateError as error:
                rendered[index] = _describe_template_error(example, error)
        elif example.kind == "messages" and job.settings.mode == "chat":
            conversations.append(index)
        else:
            rendered[index] = _describe_wrong_kind(job, example)
    requests = [_request(job, batch[index].messages, batch[index]) for index in conversations]
    for index, samples in zip(conversations, job.renderer.render_samples(requests) if requests else [], strict=True):
        if isinstance(samples, TemplateError):
            rendered[index] = _describe_template_error(batch[index], samples)
        else:
            rendered[index] = samples
    return rendered


def _request(job: _Job, messages: list[Message], example: Example, first_trained: int | None = None) -> SampleRequest:
    first = example.first_trained if first_trained is None else first_trained
    return SampleRequest(messages, example.tools, first, job.settings.train_on)


def _describe_template_error(example: Example, error: TemplateError) -> BadRow:
    return BadRow(example.row_id, example.row_id, "template", error.found, error.cure)


def _describe_wrong_kind(job: _Job, example: Example) -> BadRow:
    others = ", ".join(sorted(example.columns)) or "none"
    if job.settings.mode == "full_text":
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


def _cut_turns(job: _Job, example: Example, samples: list[RenderedSample], limit: int) -> list[RenderedSample]:
    """Return the samples of the longest end of a conversation that fits, or those of its last turn."""
    messages, first_trained = example.messages, example.first_trained
    while not _fit(samples, limit):
        shorter = cut_oldest_turn(messages, first_trained)
        if shorter is None:
            break
        messages, first_trained = shorter
        result = job.renderer.render_samples([_request(job, messages, example, first_trained)])[0]
        if isinstance(result, TemplateError):
            break  # the template needs the turns that would be cut: what is too long is dropped
        samples = result
    return samples


def _account(job: _Job, example: Example, samples: list[RenderedSample], num_tokens: int) -> list[RenderedSample]:
    """Return the samples that are trained on, after entering into the ledger what is kept and what is lost."""
    limit, policy = job.settings.max_length, str(job.settings.identity()["truncation"])
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
            job.ledger.drop(example.row_id, TOO_LONG, kind="length", tokens=num_tokens, detail=detail)
        else:
            job.ledger.drop(example.row_id, NOT_TRAINED, kind="empty", tokens=num_tokens)
        return []
    num_kept = _count(kept)
    num_trained = sum(int(sample.is_trainable_T[1:].sum()) for sample in kept)
    job.ledger.train(samples=len(kept), tokens=num_kept, tokens_trained=num_trained)
    if num_kept != num_tokens:
        cause = policy if is_too_long or policy == "cut_oldest_turn" else NOT_TRAINED
        detail = f"{num_tokens:,} tokens, {num_kept:,} kept"
        lost = num_tokens - num_kept
        job.ledger.shorten(example.row_id, cause, tokens=lost, detail=detail, is_stop_cut=is_stop_cut)
    return kept
