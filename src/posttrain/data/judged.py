"""Rows of one prompt and one completion with numbers: ratings of attributes, or a label for each step.

    rows = load_judged(sources, renderer, decode, settings, place)
    rows.sources[0][7].columns["help"]      # of prompt, completion and ratings: 3.5, or None where there is none
    rows.sources[0][7].columns["places"]    # of prompt, completions, labels: the tokens that end a step

The steps of a solution are one answer, with the separator between them, since that is how a policy writes them; a step
is read where `chat.steps` finds it, in training as in scoring. Beside the reasons of `data.pairs` a row is dropped for

| | |
| --- | --- |
| `no rating` | none of the attributes is there as a number |
| `steps run together` | a step is blank or holds the separator, or two end in one token: labels would not match |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from posttrain.chat.rendering import SampleRequest
from posttrain.chat.steps import find_step_ends, split_ids
from posttrain.core.errors import TemplateError
from posttrain.core.records import Example, RenderedSample
from posttrain.data.examples import drop_bad_row
from posttrain.data.json_values import read_number
from posttrain.data.pairs import PairData, build_pair_data
from posttrain.data.rows import BadRow
from posttrain.data.sources import DataSource
from posttrain.data.tokenizing import (
    DataPlace,
    RowRendering,
    SampleRenderer,
    SourceJob,
    TokenizedRow,
    describe_template_error,
    load_sources,
)
from posttrain.data.truncation import TOO_LONG, TruncationPolicy

JUDGED_VERSION = 1
"""Part of every key: raised whenever the same rows and settings would give other tokens."""

PLACES, LABELS = "places", "labels"
"""Columns of stepwise rows: the tokens of the completion that are read, and the label of each."""


@dataclass(frozen=True, slots=True)
class JudgedSettings:
    """What decides the tokens of a row, beside the row.

    Made by the wiring of a stage. `attributes` names the columns of ratings, `separator` what stands between steps; one
    of the two is given. `max_length` is in tokens of the prompt with its completion, None for no limit.
    """

    renderer_hash: str
    tokenizer_hash: str
    attributes: tuple[str, ...] = ()
    separator: str | None = None
    max_length: int | None = None
    truncation: TruncationPolicy = "refuse"
    max_affected_fraction: float = 0.005

    def identity(self) -> dict[str, object]:
        """Return what the tokens depend on: `refuse` and `drop` give the same rows and differ in a check."""
        return {
            "renderer": self.renderer_hash,
            "tokenizer": self.tokenizer_hash,
            "attributes": list(self.attributes),
            "separator": self.separator,
            "max_length": self.max_length,
            "judged": JUDGED_VERSION,
        }


# many parameters: those of load_pairs, and what finds steps
def load_judged(
    sources: Sequence[DataSource],
    renderer: SampleRenderer,
    decode: Callable[[Sequence[int]], str],
    settings: JudgedSettings,
    place: DataPlace,
    contaminated: Sequence[Mapping[str, str]] = (),
) -> PairData:
    """Return the tokenized rows of some sources, from the store where they are in it.

    Args:
        sources: What to read, in order.
        renderer: Turns messages into tokens.
        decode: Gives the text of ids.
        settings: What decides the tokens of a row.
        place: Where sources and store lie.
        contaminated: For each source the rows that are left out, by id, with what they hold; empty: none of any.

    Raises:
        DataError: A source cannot be read, has more bad or overlong rows than it may, or gives no row.
        StorageError: The store cannot be written.
    """
    stored = load_sources(sources, _Judged(settings, renderer, decode), place, contaminated)
    return build_pair_data(stored, 1)


@dataclass(frozen=True)
class _Judged(RowRendering[JudgedSettings]):
    """Rows as a prompt and its completion, one sample each, in this order."""

    decode: Callable[[Sequence[int]], str]

    def tokenize(self, job: SourceJob, batch: list[Example]) -> Iterator[TokenizedRow]:
        prepared = [self._prepare(example) for example in batch]
        requests = [request for request in prepared if not isinstance(request, BadRow)]
        rendered = iter(self.renderer.render_samples(requests) if requests else [])
        for example, request in zip(batch, prepared, strict=True):
            found = request if isinstance(request, BadRow) else self._read(example, next(rendered))
            if isinstance(found, BadRow):
                drop_bad_row(job.source, job.ledger, found)
                continue
            num_tokens = sum(len(part.ids_T) for part in found.samples)
            if self.settings.max_length is not None and num_tokens > self.settings.max_length:
                job.ledger.drop(example.row_id, TOO_LONG, kind="length", tokens=num_tokens, detail=f"{num_tokens:,}")
                continue
            trained = sum(int(part.is_trainable_T.sum()) for part in found.samples)
            job.ledger.train(samples=1, tokens=num_tokens, tokens_trained=trained)
            yield found

    def _prepare(self, example: Example) -> SampleRequest | BadRow:
        separator = self.settings.separator
        wanted = "messages" if separator is None else "stepwise"
        if example.kind != wanted:
            form = "prompt, completion" if separator is None else "prompt, completions: [str], labels: [bool]"
            detail = (
                f"a row of the type '{example.kind}'; other columns: {', '.join(sorted(example.columns)) or 'none'}"
            )
            return BadRow(example.row_id, example.row_id, "nothing to judge", detail, f"give {form}")
        if separator is None:
            return SampleRequest(example.messages, example.tools, example.first_trained, "last_assistant")
        prompt, steps = example.messages[: example.first_trained], example.messages[example.first_trained :]
        texts = [str(step["content"]) for step in steps]
        if any(not text.strip() or separator in text.strip() for text in texts):
            detail = f"a step is blank or holds the separator {separator!r}"
            return BadRow(example.row_id, example.row_id, "steps run together", detail, "choose another separator")
        answer = {"role": "assistant", "content": separator.join(text.strip() for text in texts)}
        return SampleRequest([*prompt, answer], example.tools, len(prompt))

    def _read(self, example: Example, samples: list[RenderedSample] | TemplateError) -> TokenizedRow | BadRow:
        if isinstance(samples, TemplateError):
            return describe_template_error(example, samples)

        name = example.row_id
        if len(samples) != 1:
            return BadRow(name, name, "several samples", f"{len(samples)} samples", "give the last answer alone")
        trained = np.flatnonzero(samples[0].is_trainable_T)
        if len(trained) < 2 or not trained[0]:  # the end of the turn alone, or no prompt
            return BadRow(name, name, "empty completion", "a completion says nothing", "leave the row out")
        first, last = int(trained[0]), int(trained[-1]) + 1
        parts = [_cut(samples[0], 0, first), _cut(samples[0], first, last)]
        if not self.decode(parts[1].ids_T[:-1].tolist()).strip():
            return BadRow(name, name, "empty completion", "a completion says nothing", "leave the row out")
        if self.settings.separator is None:
            ratings = {column: read_number(example.columns.get(column)) for column in self.settings.attributes}
            if all(rating is None for rating in ratings.values()):
                return BadRow(name, name, "no rating", f"no finite number in {', '.join(ratings)}", "map the columns")
            return TokenizedRow(example.row_id, parts, ratings)
        places = find_step_ends(split_ids(parts[1].ids_T.tolist(), self.decode), self.settings.separator)
        if len(places) != len(example.labels):
            detail = f"{len(example.labels)} labels, and {len(places)} ends of steps in the tokens"
            return BadRow(name, name, "steps run together", detail, "choose another separator")
        return TokenizedRow(example.row_id, parts, {PLACES: places, LABELS: [int(label) for label in example.labels]})


def _cut(sample: RenderedSample, first: int, last: int) -> RenderedSample:
    return RenderedSample(sample.ids_T[first:last], sample.sources_T[first:last], sample.is_trainable_T[first:last])
