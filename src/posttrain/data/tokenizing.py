"""Takes the rows of a source once from text to tokens on disk, whatever they are to be trained for.

Rows stream through: read, understood, given to a `RowTokenizer` in batches, appended to the store. An entry of the
store is named by the rows' content and by what the tokenizer says decides its tokens; a second start reads it and
tokenizes nothing.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from posttrain.chat.rendering import SampleRequest
from posttrain.core.durable import remove_temporaries, storage_errors, write_folder
from posttrain.core.errors import DataError, TemplateError
from posttrain.core.hashing import hash_json
from posttrain.core.protocols import Progress, RowSource
from posttrain.core.records import Example, RenderedSample, TokenRows
from posttrain.data.examples import check_bad_fraction, iterate_examples
from posttrain.data.ledger import Ledger
from posttrain.data.rows import BadRow
from posttrain.data.sources import DataSource, fingerprint
from posttrain.data.token_store import DamagedStoreError, StoredColumns, TokenWriter, read_rows, write_manifest
from posttrain.data.truncation import TruncationPolicy, check_affected

BATCH_ROWS = 256
BATCH_CHARACTERS = 4_000_000
CONTAMINATED = "contaminated"
"""The reason of rows that are left out because they hold evaluation items."""


class SampleRenderer(Protocol):
    """What tokenizing needs of `chat.rendering.Renderer`."""

    def render_samples(self, requests: Sequence[SampleRequest]) -> list[list[RenderedSample] | TemplateError]:
        """Return each conversation's samples, or the error that stands in their place."""

    def render_document(self, text: str) -> RenderedSample:
        """Return a raw document's tokens, with the tokenizer's BOS and EOS around them."""


class TokenizedRow(NamedTuple):
    """What is kept of one row: its samples in order, and the columns that stay beside them (None: none do)."""

    row_id: str
    samples: list[RenderedSample]
    columns: dict[str, Any] | None = None


class RowTokenizer(Protocol):
    """Turns understood rows into samples. Made for a stage by `tokenized.load_token_rows` and `pairs.load_pairs`."""

    def identity(self) -> dict[str, object]:
        """Return what the tokens of a row depend on, beside the row."""

    def tokenize(self, job: SourceJob, batch: list[Example]) -> Iterator[TokenizedRow]:
        """Yield what is kept of each example, and account for all of them in the job's ledger."""

    def check(self, source: DataSource, ledger: Ledger) -> None:
        """Check what the recipe allows to be lost; it is asked of stored rows too.

        Raises:
            DataError: More is lost.
        """


class TokenSettings(Protocol):
    """What decides the tokens of a row, beside the row, and how many rows may be too long."""

    @property
    def max_length(self) -> int | None:
        """Most tokens of a row, None for no limit."""

    @property
    def truncation(self) -> TruncationPolicy:
        """What becomes of longer ones."""

    @property
    def max_affected_fraction(self) -> float:
        """How many may be longer where none may be cut."""

    def identity(self) -> dict[str, object]:
        """Return what the tokens depend on."""


S = TypeVar("S", bound=TokenSettings)


@dataclass(frozen=True)
class RowRendering(Generic[S]):
    """What every `RowTokenizer` has: settings that name its tokens and bound what may be lost, and a renderer."""

    settings: S
    renderer: SampleRenderer

    def identity(self) -> dict[str, object]:
        """Return what the tokens of a row depend on, beside the row."""
        return self.settings.identity()

    def check(self, source: DataSource, ledger: Ledger) -> None:
        """Check that few enough rows of a source are too long.

        Raises:
            DataError: More are.
        """
        settings = self.settings
        try:
            check_affected(ledger, settings.truncation, settings.max_length, settings.max_affected_fraction)
        except DataError as error:
            raise DataError(error.found, expected=error.expected, cure=error.cure, place=source.source) from None


@dataclass(frozen=True, slots=True)
class DataPlace:
    """Where sources are found and where their tokens are kept.

    Args:
        root: The folder that relative paths start from.
        cache: The folder of the store; processes may share it.
        row_source: Opens `lab:` sets.
        progress: Shows how far it has come.
    """

    root: Path
    cache: Path
    row_source: RowSource | None = None
    progress: Progress | None = None


@dataclass(slots=True)
class SourceJob:
    """Tokenizing one source: `contaminated` names the rows that are left out, with what they hold."""

    source: DataSource
    tokenizer: RowTokenizer
    place: DataPlace
    contaminated: Mapping[str, str] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)

    def iterate_examples(self) -> Iterator[Example]:
        """Yield the examples that hold no evaluation item; the others are counted."""
        rows = iterate_examples(self.source, self.ledger, root=self.place.root, row_source=self.place.row_source)
        for example in rows:
            found = self.contaminated.get(example.row_id)
            if found is None:
                yield example
            else:
                self.ledger.drop(example.row_id, CONTAMINATED, kind="contaminated", detail=found)

    def fingerprint(self) -> str:
        """Return the hash of what is read."""
        return fingerprint(self.source, root=self.place.root, row_source=self.place.row_source)


@dataclass(frozen=True, slots=True)
class StoredSource:
    """The tokens of one source: rows, the columns beside them (None where none are kept), ledger.

    `num_tokenized` counts the data rows that were tokenized now rather than read from the store.
    """

    rows: TokenRows
    columns: StoredColumns | None
    ledger: Ledger
    num_tokenized: int


class NothingTrainedError(DataError):
    """Of a source no row is left to train on; `ledger` says what became of them."""

    ledger: Ledger


def load_sources(
    sources: Sequence[DataSource],
    tokenizer: RowTokenizer,
    place: DataPlace,
    contaminated: Sequence[Mapping[str, str]] = (),
) -> list[StoredSource]:
    """Return the tokens of some sources, from the store where they are in it.

    Args:
        sources: What to read, in order.
        tokenizer: Turns rows into samples.
        place: Where sources and store lie.
        contaminated: For each source the rows that are left out, by id, with what they hold; empty: none of any.

    Raises:
        DataError: A source cannot be read, has more bad or overlong rows than it may, or gives no row.
        StorageError: The store cannot be written.
    """
    left_out = contaminated or [{}] * len(sources)
    found = []
    for source, rows_out in zip(sources, left_out, strict=True):
        job = SourceJob(source, tokenizer, place, rows_out)
        stored = _load_source(job)
        _check_ledger(job, stored.ledger)
        found.append(stored)
    return found


def add_up(stored: Sequence[StoredSource]) -> tuple[Ledger, int, list[Ledger]]:
    """Return the ledger of all sources, how many rows were tokenized now, and the ledger of each source."""
    total = Ledger()
    for source in stored:
        total.merge(source.ledger)
    return total, sum(source.num_tokenized for source in stored), [source.ledger for source in stored]


def _load_source(job: SourceJob) -> StoredSource:
    content = job.fingerprint()
    left_out = {"contaminated": sorted(job.contaminated.items())} if job.contaminated else {}
    key = hash_json({"content": content, **job.tokenizer.identity(), **left_out})
    place, progress = job.place.cache / key, job.place.progress
    with _lock(place):
        if (place / "rows").exists():
            try:
                return StoredSource(*read_rows(place / "rows", key), num_tokenized=0)
            except DamagedStoreError as error:
                if progress is not None:
                    progress.note(f"tokenized rows of {job.source.source} are damaged ({error}): tokenizing again")
                with storage_errors(place):
                    shutil.rmtree(place / "rows")
        remove_temporaries(place)
        write_folder(place / "rows", lambda folder: _build(job, folder, key, content))
        rows, columns, _ = read_rows(place / "rows", key)
        return StoredSource(rows, columns, job.ledger, job.ledger.rows_in)


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


def _build(job: SourceJob, folder: Path, key: str, content: str) -> None:
    """Tokenize a source into a folder."""
    progress = job.place.progress
    if progress is not None:
        progress.start(f"tokenizing {job.source.source}", job.source.rows or 0, unit="row")
    try:
        with TokenWriter(folder) as writer:
            for batch in _batch(job.iterate_examples()):
                for row in job.tokenizer.tokenize(job, batch):
                    for sample in row.samples:
                        writer.add(row.row_id, sample)
                    if row.columns is not None:
                        writer.add_columns(row.columns)
                if progress is not None:
                    progress.advance(len(batch), tokens=job.ledger.tokens_in)
    finally:
        if progress is not None:
            progress.finish()
    if job.ledger.rows_trained == 0:
        _check_ledger(job, job.ledger)
    if job.fingerprint() != content:
        raise DataError(
            "the data changed while it was read", cure="start again when it is whole", place=job.source.source
        )
    write_manifest(folder, key, job.ledger)


def _check_ledger(job: SourceJob, ledger: Ledger) -> None:
    """Check what the recipe allows to be lost; kept apart from building, so that it holds for stored rows too."""
    ledger.check_balance()
    check_bad_fraction(job.source, ledger)
    job.tokenizer.check(job.source, ledger)
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
        said = (*example.messages, *example.chosen, *example.rejected)
        characters += len(example.text) + sum(len(message.get("content") or "") for message in said)
        if len(batch) >= BATCH_ROWS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def describe_template_error(example: Example, error: TemplateError) -> BadRow:
    """Return what stands in the place of a row that the chat template refuses."""
    return BadRow(example.row_id, example.row_id, "template", error.found, error.cure)
