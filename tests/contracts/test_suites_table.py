"""The table of docs/suites.md says what the registry of benchmarks holds."""

from __future__ import annotations

from pathlib import Path

from posttrain.evaluation.benchmark import Benchmark
from posttrain.evaluation.suites.registry import BENCHMARKS
from posttrain.evaluation.task import CHOICE, GENERATION, PERPLEXITY
from tests.evaluation.published_samples import ROWS

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "suites.md"
HEADER = "| name | what | metric | parts and rows | source | licence |"
LISTED_PARTS = 4


def describe_parts(benchmark: Benchmark) -> str:
    counts = {part: ROWS[benchmark.name][part] for part in benchmark.files}
    if len(counts) > LISTED_PARTS:
        return f"{len(counts)} parts, {sum(counts.values()):,}"
    return ", ".join(f"`{part}` {count:,}" for part, count in counts.items())


def describe_metric(benchmark: Benchmark) -> str:
    settings = benchmark.settings
    kind = settings.get("type", GENERATION)
    if kind == GENERATION:
        scorer = settings["scorer"]
        return f"`{scorer if isinstance(scorer, str) else scorer['type']}`"
    return {CHOICE: f"`{settings.get('metric', 'accuracy')}`", PERPLEXITY: "`perplexity`"}[kind]


def describe(benchmark: Benchmark) -> str:
    cells = [
        f"`{benchmark.name}@{benchmark.version}`", benchmark.about, describe_metric(benchmark),
        describe_parts(benchmark), benchmark.source, benchmark.licence,
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def test_the_table_of_suites_is_what_the_registry_holds() -> None:
    lines = DOCUMENT.read_text(encoding="utf-8").split("\n")
    start = lines.index(HEADER) + 2
    rows = lines[start : next(number for number in range(start, len(lines)) if not lines[number].startswith("|"))]
    assert rows == [describe(benchmark) for benchmark in BENCHMARKS.values()]


def test_the_number_of_benchmarks_is_said_as_it_is() -> None:
    assert f"{len(BENCHMARKS)} benchmarks" in DOCUMENT.read_text(encoding="utf-8")
