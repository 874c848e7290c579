"""Planted contamination: how much of each kind is found, and how many clean rows are taken for dirty ones.

    python -m benchmarks.planted_contamination --data ../shared/data --count 200

Questions of GSM8K (test), MMLU (validation), HumanEval and TruthfulQA are planted into real training rows (Dolly,
GPTeacher, GSM8K train), each in one of twelve ways; a planting that leaves a question as it is counts as no planting
of its kind. Clean rows are the training rows themselves: what is found in them is called false, though a few do hold
a question that is as good as the evaluation's.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.plantings import PLANTINGS
from benchmarks.tables import format_table
from posttrain.core.seeds import build_numpy_generator
from posttrain.data.contamination_index import KINDS, ContaminationIndex, ContaminationSettings
from posttrain.data.evaluation_items import EvaluationItem, TrainingText
from posttrain.statistics.intervals import wilson_interval

TRAINING = {
    "dolly": ("instruct/dolly_hhrlhf_train_small.jsonl.gz", ("prompt", "response")),
    "codegen": ("instruct/gpteacher_codegen.json.gz", ("instruction", "input", "response")),
    "roleplay": ("instruct/gpteacher_roleplay.json.gz", ("instruction", "input", "response")),
    "gsm8k train": ("math/gsm8k_train.jsonl.gz", ("question", "answer")),
}


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file of JSON Lines, of a JSON array, or of CSV, compressed or not."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    text = content.decode("utf-8")
    if ".csv" in path.suffixes:
        yield from csv.DictReader(text.splitlines())
    elif text.lstrip().startswith("["):
        yield from json.loads(text)
    else:
        yield from map(json.loads, filter(None, text.split("\n")))


def read_items(data: Path) -> dict[str, list[EvaluationItem]]:
    """Return the evaluation items by benchmark."""
    gsm8k = [
        (row["question"], row["answer"].rpartition("#### ")[2]) for row in read_rows(data / "math/gsm8k_test.jsonl")
    ]
    mmlu = [(row["question"], "") for row in read_rows(data / "gates/mmlu_val.jsonl.gz")]
    code = [(row["prompt"], row["canonical_solution"]) for row in read_rows(data / "code/humaneval.jsonl.gz")]
    truth = [(row["Question"], row["Best Answer"]) for row in read_rows(data / "facts/truthfulqa.csv")]
    pairs = {"gsm8k": gsm8k, "mmlu": mmlu, "humaneval": code, "truthfulqa": truth}
    return {
        name: [EvaluationItem(f"{name}:{n}", q, (a,) if a else ()) for n, (q, a) in enumerate(rows)]
        for name, rows in pairs.items()
    }


def read_training(data: Path) -> dict[str, list[str]]:
    """Return the training rows as texts, by source."""
    return {
        name: ["\n".join(str(row.get(column, "")) for column in columns) for row in read_rows(data / path)]
        for name, (path, columns) in TRAINING.items()
    }


def measure_recall(
    items: dict[str, list[EvaluationItem]], training: dict[str, list[str]], settings: ContaminationSettings, count: int
) -> list[tuple[str, ...]]:
    """Return a row for each planting: how many of what was planted were found, by benchmark and over all."""
    hosts = [text for texts in training.values() for text in texts]
    indexes = {name: ContaminationIndex(rows, settings) for name, rows in items.items()}
    table = []
    for kind, plant in PLANTINGS.items():
        cells, found_all, planted_all = [], 0, 0
        for name, rows in items.items():
            generator = build_numpy_generator("planted contamination", kind, name)
            found = planted = 0
            for number in generator.permutation(len(rows))[:count]:
                item = rows[int(number)]
                text = plant(item.question, generator)
                if text == item.question and kind != "verbatim":
                    continue
                host = hosts[int(generator.integers(len(hosts)))]
                row = TrainingText("row:1", (f"{text}\n{host}" if generator.integers(2) else f"{host}\n{text}",))
                hits = {indexes[name].items[hit.item].item_id for hit in indexes[name].search(row).hits}
                planted += 1
                found += item.item_id in hits
            cells.append(_show(found, planted))
            found_all, planted_all = found_all + found, planted_all + planted
        table.append((kind, *cells, _show(found_all, planted_all)))
    return table


def measure_false(
    items: dict[str, list[EvaluationItem]], training: dict[str, list[str]], settings: ContaminationSettings
) -> list[tuple[str, ...]]:
    """Return a row for each training source: how many of its rows are taken for dirty, by benchmark, and by kind."""
    indexes = {name: ContaminationIndex(rows, settings) for name, rows in items.items()}
    table = []
    for source, texts in training.items():
        cells = []
        kinds: Counter[str] = Counter()
        for index in indexes.values():
            dirty = 0
            for number, text in enumerate(texts):
                hits = index.search(TrainingText(f"{source}:{number}", (text,))).hits
                dirty += bool(hits)
                kinds.update({hit.kind for hit in hits})
            cells.append(_show(dirty, len(texts)))
        table.append((source, *cells, ", ".join(f"{kind} {kinds[kind]}" for kind in KINDS if kinds[kind])))
    return table


def _show(successes: int, total: int) -> str:
    if not total:
        return "-"
    found = wilson_interval(successes, total)
    return f"{successes}/{total} ({successes / total:.1%}: {found.low:.1%} to {found.high:.1%})"


def main() -> None:
    """Measure and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--count", type=int, default=200, help="questions planted of each benchmark and kind")
    parser.add_argument("--without-near", action="store_true", help="look for no reworded questions")
    arguments = parser.parse_args()
    settings = ContaminationSettings(near=None) if arguments.without_near else ContaminationSettings()
    items, training = read_items(arguments.data), read_training(arguments.data)
    print(format_table(("planted", *items, "all"), measure_recall(items, training, settings, arguments.count)))
    print()
    print(format_table(("clean rows of", *items, "by kind"), measure_false(items, training, settings)))


if __name__ == "__main__":
    main()
