"""What reward models of the lab know of held-out pairs: how much of what is possible, by skill, and what length earns.

    python -m benchmarks.lab_reward_models runs/lab-reward-model               # every reward model of a run
    python -m benchmarks.lab_reward_models runs/lab-reward-model --by skill    # and where it is lost

A model of pairs is asked about pairs of the set that it learned from, a model of ratings about pairs of each attribute
that it has an output for. Length is measured at equal gold over pairs of `lab:preferences`, with the score as it is
and with the penalty that the stage fitted to its validation rows, which are other ones where they are of another split.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.tables import format_table
from posttrain.core.durable import read_json
from posttrain.core.records import Completion, Problem
from posttrain.core.run_folder import RunFolder
from posttrain.lab.source import lab_rows
from posttrain.pipeline.reward_models import open_for_scoring
from posttrain.pipeline.scorer_settings import LearnedSettings
from posttrain.scorers.learned import LearnedScorer, LearnedUse, OpenedModel
from posttrain.stages.reward_ordering import compare_with_bayes, order_by_quality
from posttrain.statistics.intervals import Interval
from posttrain.statistics.length_bias import measure_length_bias

Floats = npt.NDArray[np.float64]
_LEAST_PAIRS = 20
"""Fewer pairs of a skill say nothing."""


@dataclass(frozen=True, slots=True)
class Trained:
    """A reward model of a run: its stage, the set that it learned from, its attributes if it has any, its folder."""

    stage: str
    source: str
    attributes: tuple[str, ...]
    folder: Path


def list_models(run: Path) -> list[Trained]:
    """Return the reward models of a run folder, in order."""
    folder = RunFolder(run)
    record, resolved = read_json(folder.run_json), read_json(folder.resolved)
    configs = {stage["name"]: stage for stage in resolved["stages"]}
    found = []
    for entry in record["stages"]:
        named = (entry.get("outputs") or {}).get("reward_model")
        if named is None:
            continue
        config = configs[entry["name"]]
        source = str(config["data"][0]["source"]).removeprefix("lab:")
        found.append(Trained(entry["name"], source, tuple(config.get("attributes") or ()), folder.artifacts / named))
    return found


def read_gaps(model: OpenedModel, rows: Sequence[dict[str, Any]], use: LearnedUse) -> Floats:
    """Return the score of each row's chosen reply less that of its rejected one."""
    none = np.zeros(0, np.int32)
    items = [
        (
            Problem(str(number), row["prompt"]),
            Completion(str(number), 0, none, none, row[side][0]["content"], "stop", "", 0),
        )
        for number, row in enumerate(rows)
        for side in ("chosen", "rejected")
    ]
    values = np.array([outcome.value for outcome in LearnedScorer(lambda: model, use).score(items)])
    return values[0::2] - values[1::2]


def read_length_gaps(model: OpenedModel, rows: Sequence[dict[str, Any]]) -> Floats:
    """Return by how many tokens each row's chosen reply is longer than its rejected one."""
    asked = [(Problem("", row["prompt"]), row[side][0]["content"]) for row in rows for side in ("chosen", "rejected")]
    lengths = np.array([len(ids) for _, ids in model.encode(asked)], dtype=np.float64)
    return lengths[0::2] - lengths[1::2]


def take_rows(source: str, split: str, count: int) -> list[dict[str, Any]]:
    """Return the first rows of a set."""
    return list(itertools.islice(lab_rows(source, split), count))


def describe_accuracy(trained: Trained, model: OpenedModel, arguments: argparse.Namespace) -> list[list[str]]:
    """Return rows of a table: what of the possible is reached, over all pairs and by a column of them."""
    asked = {f"prefer_{name}": LearnedUse(weights={name: 1.0}) for name in trained.attributes}
    table = []
    for source, use in (asked or {trained.source: LearnedUse()}).items():
        rows = take_rows(source, arguments.split, arguments.rows)
        gaps = read_gaps(model, rows, use)
        chances = np.array([row["probability"] for row in rows])
        groups: dict[str, list[int]] = {"all": list(range(len(rows)))}
        for number, row in enumerate(rows) if arguments.by else ():
            groups.setdefault(str(row[arguments.by]), []).append(number)
        for name, chosen in groups.items():
            if len(chosen) >= _LEAST_PAIRS:
                table.append([trained.stage, f"lab:{source}", name, *_write(gaps[chosen], chances[chosen])])
    return table


def _write(gaps: Floats, chances: Floats) -> list[str]:
    found = compare_with_bayes(gaps, chances)
    limits = found.get("normalised_limits", {"low": float("nan"), "high": float("nan")})
    return [
        f"{len(gaps):,}",
        f"{100 * found['expected_accuracy']:.1f}",
        f"{100 * found['best_accuracy']:.1f}",
        f"{found['normalised_accuracy']:.3f} ({limits['low']:.3f} to {limits['high']:.3f})",
    ]


def describe_length(trained: Trained, model: OpenedModel, arguments: argparse.Namespace) -> list[list[str]]:
    """Return rows of a table: what one more token earns at equal gold, with and without the fitted penalty."""
    if trained.attributes or model.length_slope is None:
        return []
    rows = take_rows("preferences", arguments.split, arguments.rows)
    lengths = read_length_gaps(model, rows)
    gold = np.array([row["gold_chosen"] - row["gold_rejected"] for row in rows])
    table = []
    for words, use in (("as it is", LearnedUse()), ("length_penalty: fitted", LearnedUse(length_penalty="fitted"))):
        gaps = read_gaps(model, rows, use)
        bias, ordered = measure_length_bias(gaps, lengths, gold), order_by_quality(gaps, gold)
        assert ordered is not None
        right = Interval(100 * ordered["value"], 100 * ordered["low"], 100 * ordered["high"])
        table.append([
            trained.stage,
            f"lab:{trained.source}",
            words,
            f"{bias.slope.value:+.4f} ({bias.slope.low:+.4f} to {bias.slope.high:+.4f})",
            f"{bias.correlation:+.2f}",
            f"{right.value:.1f} ({right.low:.1f} to {right.high:.1f})",
        ])  # fmt: skip
    return table


def main() -> None:
    """Print both tables of a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="+", help="run folders")
    parser.add_argument("--split", default="held_out")
    parser.add_argument("--rows", type=int, default=1200, help="pairs of each set, at most")
    parser.add_argument("--by", help="a column of the pairs: skill, group")
    arguments = parser.parse_args()
    accuracies, lengths = [], []
    for trained in [found for run in arguments.run for found in list_models(run)]:
        model = open_for_scoring(trained.folder, LearnedSettings(type="learned", model=str(trained.folder)))
        accuracies += describe_accuracy(trained, model, arguments)
        lengths += describe_length(trained, model, arguments)
    print(
        format_table(
            ["stage", "pairs of", "of which", "pairs", "accuracy, %", "best, %", "of what is possible"], accuracies
        )
    )
    print()
    heads = [
        "stage",
        "learned from",
        "score",
        "a token earns at equal gold",
        "partial correlation",
        "better by gold, %",
    ]
    print(format_table(heads, lengths))


if __name__ == "__main__":
    main()
