"""Rows of a prompt and the completions that follow it, tokenized once: pairs, and unpaired rows with a label.

    rows = load_pairs(sources, renderer, settings, place)   # "preference": prompt, chosen, rejected
    pair = rows.sources[0][7]
    pair.prompt.ids_T                  # the ids a sampler is given, the same for both branches
    pair.chosen.ids_T                  # the answer and its end-of-turn token, nothing behind it
    pair.join(pair.chosen)             # prompt and completion as one sample
    pair.columns["margin"]             # what else the recipe asked to be kept of the row

A completion may hold several turns (calls, what tools replied); `is_trainable_T` says which of its tokens the
assistant wrote. Both branches are rendered as conversations, and what stands before the first token that the assistant
writes is the prompt: the renderer encodes a prompt alone and an answer as its continuation, so that ids are laid end to
end and never made from strings that were. A row whose branches begin with other prompt ids is dropped.

| dropped for | |
| --- | --- |
| `no preference` | both completions are the same, as text or as tokens |
| `empty completion` | a completion of which only its end would be trained on |
| `prompt is no prefix` | the branches do not begin with one prompt |
| `several samples` | the template rewrites earlier turns of a completion, so that it is no one text |
| `too many tokens` | prompt and longer completion are over `max_length` |
| `template`, `nothing to compare` | the template refuses it; a row of another kind |
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt

from posttrain.chat.rendering import SampleRequest
from posttrain.core.errors import DataError, TemplateError
from posttrain.core.records import Example, Message, RenderedSample, TokenRows
from posttrain.data.examples import drop_bad_row
from posttrain.data.json_values import read_number, to_json_value
from posttrain.data.ledger import Ledger
from posttrain.data.rows import BadRow, shorten
from posttrain.data.sources import DataSource
from posttrain.data.token_store import StoredColumns
from posttrain.data.tokenizing import (
    DataPlace,
    RowRendering,
    SampleRenderer,
    SourceJob,
    StoredSource,
    TokenizedRow,
    add_up,
    describe_template_error,
    load_sources,
)
from posttrain.data.truncation import TOO_LONG, cut_oldest_turn
from posttrain.data.unpaired import split_pairs

PAIRS_VERSION = 1
"""Part of every key: raised whenever the same rows and settings would give other tokens."""

PairTruncation = Literal["refuse", "drop", "cut_oldest_turn"]
"""As `data.truncation`; a completion is never cut, since its log-prob would be another's."""


@dataclass(frozen=True, slots=True)
class PairSettings:
    """What decides the tokens of a row, beside the row.

    Made by the wiring of a stage. `kind` is `preference` (two completions: chosen, rejected) or `unpaired` (one, and
    the column `label`; `splits_pairs` makes two such rows of a pair). `max_length` is in tokens of the prompt with its
    longer completion, None for no limit. `columns` names further columns that are kept beside the tokens.
    `renderer_hash` names template, date and template arguments, `tokenizer_hash` the vocabulary.
    """

    renderer_hash: str
    tokenizer_hash: str
    kind: Literal["preference", "unpaired"] = "preference"
    max_length: int | None = None
    truncation: PairTruncation = "refuse"
    max_affected_fraction: float = 0.005
    columns: tuple[str, ...] = ()
    splits_pairs: bool = False

    def __post_init__(self) -> None:
        if self.max_length is not None and self.max_length < 3:
            raise DataError(f"max_length of {self.max_length} tokens", expected="at least 3", place="max_length")

    @property
    def width(self) -> int:
        """Completions of a row."""
        return 2 if self.kind == "preference" else 1

    def identity(self) -> dict[str, object]:
        """Return what the tokens depend on: `refuse` and `drop` give the same rows and differ in a check."""
        return {
            "renderer": self.renderer_hash,
            "tokenizer": self.tokenizer_hash,
            "kind": "unpaired, pairs split" if self.splits_pairs else self.kind,
            "max_length": self.max_length,
            "truncation": "drop" if self.truncation == "refuse" else self.truncation,
            "columns": sorted(self.columns),
            "pairs": PAIRS_VERSION,
        }


@dataclass(frozen=True, slots=True)
class RenderedPair:
    """A prompt and the completions that follow it: chosen and rejected, or the one of an unpaired row.

    Made by `PairRows`, read by reward models and preference stages. No token of the prompt is trained on. `columns`
    are the row's kept columns; of an unpaired row `label` is among them.

    Example: `user: 2+2?` with `4` chosen and `5` rejected: the prompt's ids up to and with what begins the assistant's
    turn; two completions of two ids each, the digit and the end-of-turn token, both trained on.
    """

    row_id: str
    prompt: RenderedSample
    completions: tuple[RenderedSample, ...]
    columns: Mapping[str, Any] = field(default_factory=dict)

    @property
    def chosen(self) -> RenderedSample:
        """The preferred completion; the only one of an unpaired row."""
        return self.completions[0]

    @property
    def rejected(self) -> RenderedSample:
        """The other one of a pair."""
        return self.completions[1]

    def join(self, completion: RenderedSample) -> RenderedSample:
        """Return the prompt and a completion as one sample."""
        return join_samples(self.prompt, completion)


def join_samples(first: RenderedSample, second: RenderedSample) -> RenderedSample:
    """Return two samples laid end to end."""
    return RenderedSample(
        np.concatenate([first.ids_T, second.ids_T]),
        np.concatenate([first.sources_T, second.sources_T]),
        np.concatenate([first.is_trainable_T, second.is_trainable_T]),
    )


@dataclass(frozen=True, slots=True)
class PairRows(Sequence[RenderedPair]):
    """The rows of one source, read from the store one at a time.

    Made by `load_pairs`. Of row r, `parts` holds the prompt at r (1 + width), its completions behind it.
    """

    parts: TokenRows
    columns: StoredColumns
    width: int

    def __len__(self) -> int:
        return len(self.parts) // (1 + self.width)

    @overload
    def __getitem__(self, index: int) -> RenderedPair: ...
    @overload
    def __getitem__(self, index: slice) -> list[RenderedPair]: ...
    def __getitem__(self, index: int | slice) -> RenderedPair | list[RenderedPair]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        first = number * (1 + self.width)
        prompt, *completions = (self.parts.row(part) for part in range(first, first + 1 + self.width))
        return RenderedPair(self.parts.row_ids[first], prompt, tuple(completions), self.columns[number])

    @property
    def content_hash(self) -> str:
        """The hash of all tokens, row ids and kept columns."""
        return self.parts.content_hash

    @property
    def part_lengths_RK(self) -> npt.NDArray[np.int64]:
        """Tokens of each row's prompt and of its completions, [rows, 1 + width]."""
        return self.parts.lengths_R.reshape(-1, 1 + self.width)

    def row_id(self, index: int) -> str:
        """Return a row's name."""
        return self.parts.row_ids[index * (1 + self.width)]

    def read_numbers(self, column: str) -> npt.NDArray[np.float64]:
        """Return a kept column as numbers.

        Raises:
            DataError: A row has none there, or one that is not finite.
        """
        values = np.empty(len(self))
        for index in range(len(self)):
            value = self.columns[index].get(column)
            number = read_number(value)
            if number is None:
                raise DataError(
                    f"the column '{column}' is {shorten(repr(value))}",
                    expected="a finite number in every row (NaN and infinity are read as null)",
                    cure=f"correct the row, leave it out, or map the column: columns: {{{column}: <your column>}}",
                    place=self.row_id(index),
                )
            values[index] = number
        return values


@dataclass(frozen=True, slots=True)
class PairData:
    """The tokenized rows of some sources, one `PairRows` a source, and what became of every row.

    Made by `load_pairs`, read by stages. `num_tokenized` counts the data rows that were tokenized now rather than read
    from the store. `ledger` is the sum of `ledgers`, one a source; a row counts as one sample, its prompt once.
    """

    sources: list[PairRows]
    ledger: Ledger
    num_tokenized: int
    ledgers: list[Ledger]

    @property
    def num_rows(self) -> int:
        """Rows of all sources."""
        return sum(len(rows) for rows in self.sources)


def load_pairs(
    sources: Sequence[DataSource],
    renderer: SampleRenderer,
    settings: PairSettings,
    place: DataPlace,
    contaminated: Sequence[Mapping[str, str]] = (),
) -> PairData:
    """Return the tokenized rows of some sources, from the store where they are in it.

    Args:
        sources: What to read, in order.
        renderer: Turns messages into tokens.
        settings: What decides the tokens of a row.
        place: Where sources and store lie.
        contaminated: For each source the rows that are left out, by id, with what they hold; empty: none of any.

    Raises:
        DataError: A source cannot be read, has more bad or overlong rows than it may, or gives no row.
        StorageError: The store cannot be written.
    """
    stored = load_sources(sources, _Pairs(settings, renderer), place, contaminated)
    return build_pair_data(stored, settings.width)


def build_pair_data(stored: Sequence[StoredSource], width: int) -> PairData:
    """Return sources as rows of a prompt and so many completions, beside which columns were kept."""
    rows = []
    for source in stored:
        assert source.columns is not None  # whoever tokenized them kept some
        rows.append(PairRows(source.rows, source.columns, width))
    return PairData(rows, *add_up(stored))


@dataclass(frozen=True)
class _Pairs(RowRendering[PairSettings]):
    """Rows as a prompt and its completions, one sample each, in this order."""

    def tokenize(self, job: SourceJob, batch: list[Example]) -> Iterator[TokenizedRow]:
        batch = split_pairs(batch, job.ledger) if self.settings.splits_pairs else batch
        for example, parts in zip(batch, self._render(batch), strict=True):
            if isinstance(parts, BadRow):
                drop_bad_row(job.source, job.ledger, parts)
                continue
            num_tokens = _count(parts)
            if self.settings.truncation == "cut_oldest_turn":
                parts = self._cut_turns(example, parts)
            if self._account(job.ledger, example, parts, num_tokens):
                yield TokenizedRow(example.row_id, parts, self._keep_columns(example))

    def _render(self, examples: Sequence[Example]) -> list[list[RenderedSample] | BadRow]:
        """Return each example's prompt and completions, or why there are none, in order."""
        known = [example for example in examples if example.kind == self.settings.kind]
        requests = [
            SampleRequest([*prompt, *completion], example.tools, len(prompt))
            for example in known
            for prompt, completion in _list_branches(example)
        ]
        rendered = iter(self.renderer.render_samples(requests) if requests else [])
        found: list[list[RenderedSample] | BadRow] = []
        for example in examples:
            if example.kind != self.settings.kind:
                found.append(self._describe_wrong_kind(example))
            else:
                found.append(_split(example, [next(rendered) for _ in range(self.settings.width)]))
        return found

    def _describe_wrong_kind(self, example: Example) -> BadRow:
        wanted = "prompt, chosen, rejected" if self.settings.kind == "preference" else "prompt, completion, label"
        others = ", ".join(sorted(example.columns)) or "none"
        detail = f"a row of the type '{example.kind}'; other columns: {others}"
        return BadRow(example.row_id, example.row_id, "nothing to compare", detail, f"give {wanted}")

    def _fits(self, parts: Sequence[RenderedSample]) -> bool:
        limit = self.settings.max_length
        return limit is None or _find_longest(parts) <= limit

    def _cut_turns(self, example: Example, parts: list[RenderedSample]) -> list[RenderedSample]:
        """Return a row without the oldest turns of its prompt, as many as must go for it to fit."""
        branches = _list_branches(example)
        prompt = branches[0][0]
        while not self._fits(parts):
            shorter = cut_oldest_turn([*prompt, *branches[0][1]], len(prompt))
            if shorter is None or shorter[1] == 0:
                break
            prompt = shorter[0][: shorter[1]]
            requests = [SampleRequest([*prompt, *rest], example.tools, len(prompt)) for _, rest in branches]
            found = _split(example, self.renderer.render_samples(requests))
            if isinstance(found, BadRow):
                break  # the template needs the turns that would be cut: what is too long is dropped
            parts = found
        return parts

    def _account(self, ledger: Ledger, example: Example, parts: list[RenderedSample], num_tokens: int) -> bool:
        """Enter into the ledger what is kept and what is lost of a row, and return whether it is kept."""
        if not self._fits(parts):
            detail = f"{_find_longest(parts):,} tokens"
            ledger.drop(example.row_id, TOO_LONG, kind="length", tokens=num_tokens, detail=detail)
            return False
        num_kept = _count(parts)
        ledger.train(samples=1, tokens=num_kept, tokens_trained=sum(int(part.is_trainable_T.sum()) for part in parts))
        if num_kept != num_tokens:
            detail = f"{num_tokens:,} tokens, {num_kept:,} kept"
            ledger.shorten(example.row_id, self.settings.truncation, tokens=num_tokens - num_kept, detail=detail)
        return True

    def _keep_columns(self, example: Example) -> dict[str, Any]:
        kept = {name: to_json_value(example.columns.get(name))[0] for name in self.settings.columns}
        return kept | ({"label": example.label} if self.settings.kind == "unpaired" else {})


def _list_branches(example: Example) -> list[tuple[list[Message], list[Message]]]:
    """Return (prompt, completion) of each branch of an example."""
    if example.kind == "preference":
        return [(example.messages, example.chosen), (example.messages, example.rejected)]
    return [(example.messages[: example.first_trained], example.messages[example.first_trained :])]


def _split(example: Example, branches: Sequence[list[RenderedSample] | TemplateError]) -> list[RenderedSample] | BadRow:
    """Return the common prompt of rendered branches and their completions, or why there are none."""
    name = example.row_id
    prompts, completions = [], []
    for (_, completion), samples in zip(_list_branches(example), branches, strict=True):
        if isinstance(samples, TemplateError):
            return describe_template_error(example, samples)
        if len(samples) != 1:
            detail = f"the template rewrites earlier turns: a completion would be {len(samples)} samples"
            cure = "give the last answer alone as the completion, the rest as prompt"
            return BadRow(name, name, "several samples", detail, cure)
        (sample,) = samples
        trained = np.flatnonzero(sample.is_trainable_T)
        if _is_blank(completion) or len(trained) < 2:  # the end of the turn alone
            return BadRow(name, name, "empty completion", "a completion says nothing", "leave the row out")
        first, last = int(trained[0]), int(trained[-1]) + 1
        prompts.append(_cut(sample, 0, first))
        completions.append(_cut(sample, first, last))
    if any(not np.array_equal(prompts[0].ids_T, prompt.ids_T) for prompt in prompts) or not len(prompts[0].ids_T):
        detail = "the branches do not begin with the same tokens before the assistant's answer"
        cure = "use a template that renders a prompt alike whatever answers it"
        return BadRow(name, name, "prompt is no prefix", detail, cure)
    if len(completions) == 2 and np.array_equal(completions[0].ids_T, completions[1].ids_T):
        detail = "'chosen' and 'rejected' are the same tokens"
        return BadRow(name, name, "no preference", detail, "leave the row out")
    return [prompts[0], *completions]


def _is_blank(messages: Sequence[Message]) -> bool:
    """Return whether the assistant neither says, calls nor thinks anything."""
    said = [message for message in messages if message["role"] == "assistant"]
    return not any(
        (message.get("content") or "").strip() or message.get("tool_calls") or message.get("reasoning_content")
        for message in said
    )


def _cut(sample: RenderedSample, first: int, last: int) -> RenderedSample:
    return RenderedSample(sample.ids_T[first:last], sample.sources_T[first:last], sample.is_trainable_T[first:last])


def _count(parts: Sequence[RenderedSample]) -> int:
    return sum(len(part.ids_T) for part in parts)


def _find_longest(parts: Sequence[RenderedSample]) -> int:
    """Return the tokens of a prompt with its longest completion."""
    return len(parts[0].ids_T) + max(len(part.ids_T) for part in parts[1:])
