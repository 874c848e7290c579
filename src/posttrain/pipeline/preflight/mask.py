"""Whether the tokens that a stage trains on are the assistant's, and teach it to stop."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from posttrain.core.records import RenderedSample, Source, TokenRows
from posttrain.core.seeds import build_numpy_generator
from posttrain.data.ledger import Ledger
from posttrain.data.tokenized import NOT_TRAINED
from posttrain.pipeline.preflight.findings import Finding
from posttrain.pipeline.preflight.override_names import MASK
from posttrain.stages.sft import SftConfig

MAX_ROWS = 512
"""Rows that are looked at."""
MOST_UNTRAINED_ROWS = 0.005
"""Share of rows without a trained token above which a stage is refused: what truncation allows for rows too long."""
MOST_UNSTOPPED_ROWS = 0.2
"""Share of rows that train no stop token above which a stage is refused: so many policies' answers would run on."""
_OTHERS = (int(Source.SYSTEM), int(Source.USER), int(Source.TOOL))


@dataclass(frozen=True, slots=True)
class MaskFigures:
    """What is trained on in some rows.

    Made by `compute_mask_figures`, read by the check. A row's first token has no predecessor and is never trained on.
    `others` counts trained tokens that a system, user or tool message wrote, `answered` rows with an assistant's
    turn, `unstopped` those of them in which a trained turn ends without a trained stop token.

    Example: one row of 12 tokens of which the last 4 (three words and the stop token) are trained:
    `MaskFigures(rows=1, tokens=12, trained=4, untrained_rows=0, others=0, answered=1, unstopped=0)`.
    """

    rows: int
    tokens: int
    trained: int
    untrained_rows: int
    others: int
    answered: int
    unstopped: int

    @property
    def trained_fraction(self) -> float:
        """The share of tokens that are trained on."""
        return self.trained / max(1, self.tokens)

    @property
    def unstopped_fraction(self) -> float:
        """The share of rows with an assistant's turn in which one is not taught to stop."""
        return self.unstopped / max(1, self.answered)


def compute_mask_figures(rows: Sequence[RenderedSample], stop_ids: Collection[int]) -> MaskFigures:
    """Return what is trained on in rows.

    Args:
        rows: Rows as they are trained on.
        stop_ids: The ids that end an assistant's turn.
    """
    trained = untrained_rows = others = answered = unstopped = 0
    stops = np.asarray(sorted(stop_ids), np.int64)
    for row in rows:
        is_trained_T = row.is_trainable_T.copy()
        is_trained_T[:1] = False
        trained += int(is_trained_T.sum())
        untrained_rows += not is_trained_T.any()
        others += int(np.isin(row.sources_T[is_trained_T], _OTHERS).sum())
        is_answer_T = row.sources_T == int(Source.ASSISTANT)
        if is_answer_T.any():
            answered += 1
            unstopped += not _are_turns_stopped(row.ids_T, is_answer_T, is_trained_T, stops)
    tokens = sum(len(row.ids_T) for row in rows)
    return MaskFigures(len(rows), tokens, trained, untrained_rows, others, answered, unstopped)


def _are_turns_stopped(
    ids_T: npt.NDArray[np.int32],
    is_answer_T: npt.NDArray[np.bool_],
    is_trained_T: npt.NDArray[np.bool_],
    stops: npt.NDArray[np.int64],
) -> bool:
    """Return whether every run of trained tokens with an answer in it goes on to a stop token.

    Where the whole text is trained on, the stop token is the template's own, some tokens behind the answer's.
    """
    edges = np.flatnonzero(np.diff(is_trained_T.astype(np.int8), prepend=0, append=0))
    for first, end in zip(edges[::2], edges[1::2], strict=True):
        answer = np.flatnonzero(is_answer_T[first:end])
        if len(answer) and not np.isin(ids_T[first + answer[-1] : end], stops).any():
            return False
    return True


def choose_rows(parts: Sequence[TokenRows], count: int, *seed_parts: int | str) -> list[RenderedSample]:
    """Return some rows of all sources, drawn without replacement, every row where there are no more than `count`."""
    places = [(part, index) for part in parts for index in range(len(part))]
    if len(places) > count:
        chosen = build_numpy_generator("preflight", *seed_parts).choice(len(places), count, replace=False)
        places = [places[index] for index in sorted(chosen)]
    return [part.row(index) for part, index in places]


def check_mask(
    stage: str, rows: Sequence[RenderedSample], ledger: Ledger, config: SftConfig, stop_ids: Collection[int]
) -> Finding:
    """Return what a stage's mask is found to be.

    Args:
        stage: The stage's label.
        rows: Some of its rows as they are trained on.
        ledger: What became of all of its rows.
        config: Its configuration.
        stop_ids: The ids that end an assistant's turn.
    """
    figures = compute_mask_figures(rows, stop_ids)
    dropped = ledger.dropped[NOT_TRAINED].rows if NOT_TRAINED in ledger.dropped else 0
    found, expected, cure = _judge(figures, dropped, ledger.rows_in, config)
    shown = {
        "rows": figures.rows,
        "tokens": figures.tokens,
        "trained_fraction": figures.trained_fraction,
        "untrained_rows": figures.untrained_rows,
        "untrained_rows_dropped": dropped,
        "tokens_of_others": figures.others,
        "unstopped_rows": figures.unstopped,
        "unstopped_fraction": figures.unstopped_fraction,
    }
    if not found:
        passed = f"{figures.trained_fraction:.1%} of the tokens of {figures.rows:,} rows are trained on"
        return Finding(stage, MASK, "passed", passed, figures=shown)
    return Finding(stage, MASK, "refused", found, expected, cure, shown)


def _judge(figures: MaskFigures, dropped: int, rows_in: int, config: SftConfig) -> tuple[str, str, str]:
    """Return found, expected and cure of the worst that is wrong with a mask; empty texts where nothing is."""
    if not figures.trained or figures.untrained_rows:
        found = f"{figures.untrained_rows:,} of {figures.rows:,} rows have no trained token"
        return found, "a trained token in every row", _name_template(config)
    if dropped > MOST_UNTRAINED_ROWS * rows_in:
        found = f"{dropped:,} of {rows_in:,} rows were dropped because nothing in them is trained on"
        return found, f"at most {MOST_UNTRAINED_ROWS:.1%} of the rows", _name_template(config)
    if figures.others and config.train_on != "all":
        found = f"{figures.others:,} trained tokens were written by others than the assistant"
        return found, f"train_on: {config.train_on} to train on the assistant's tokens alone", _name_template(config)
    if figures.unstopped_fraction > MOST_UNSTOPPED_ROWS:
        found = (
            f"in {figures.unstopped:,} of {figures.answered:,} rows an assistant's turn ends without a trained stop "
            "token: the policy would learn not to stop"
        )
        if config.truncation == "cut_completion":
            cure = "raise max_length, or set truncation: drop or cut_oldest_turn, so that answers keep their end"
        else:
            cure = _name_template(config)
        return found, f"at most {MOST_UNSTOPPED_ROWS:.0%} of the rows", cure
    return "", "", ""


def _name_template(config: SftConfig) -> str:
    return (
        "use chat.template: plain, or a template that writes a stop token after each answer; "
        f"check train_on ({config.train_on}) and the rows: posttrain data show"
    )


def describe_nothing_trained(stage: str, found: str, ledger: Ledger, config: SftConfig) -> Finding:
    """Return the finding of a stage of which no row is left to train on; no override can help it."""
    figures = {"rows": ledger.rows_in, "trained_fraction": 0.0, "rows_dropped": ledger.rows_dropped}
    expected, cure = "at least one row with a trained token", _name_template(config)
    return Finding(stage, MASK, "refused", found, expected, cure, figures, is_overridable=False)
