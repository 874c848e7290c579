"""Published benchmarks as tasks: which parts they have, and where the files of each lie."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from posttrain.core.errors import RecipeError
from posttrain.data.byte_streams import COMPRESSIONS
from posttrain.evaluation.benchmark import Benchmark
from posttrain.evaluation.task import EvaluationTask
from posttrain.pipeline.benchmark_rows import list_spellings
from posttrain.pipeline.roots import DATA_VARIABLE

TEST = "test"
"""The part that results are told of, where a benchmark calls one so."""
_TASKS: TypeAdapter[EvaluationTask] = TypeAdapter(EvaluationTask)


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a benchmark: `bbh-navigate`, or `gsm8k`, whose part `test` bears its name.

    `is_default` says whether it is measured where no task is named.
    """

    benchmark: Benchmark
    name: str
    task_name: str
    is_default: bool


def list_parts(benchmark: Benchmark) -> list[Part]:
    """Return the parts of a benchmark, in its order."""
    names = list(dict.fromkeys([*benchmark.files, *benchmark.hub]))
    return [
        Part(
            benchmark,
            name,
            benchmark.name if name == TEST or len(names) == 1 else f"{benchmark.name}-{name}",
            name == TEST or TEST not in names,
        )
        for name in names
    ]


def find_data_folder(data: Path | None) -> Path | None:
    """Return the folder below which files of benchmarks lie; None where none is named, here or by POSTTRAIN_DATA.

    Raises:
        RecipeError: It is no folder.
    """
    named = str(data) if data is not None else os.environ.get(DATA_VARIABLE, "")
    if not named:
        return None
    folder = Path(named).resolve()
    if not folder.is_dir():
        raise RecipeError(
            f"{named} is no folder",
            expected="the folder below which the files of benchmarks lie",
            cure="correct --data" if data is not None else f"correct the environment variable {DATA_VARIABLE}",
            place="--data" if data is not None else DATA_VARIABLE,
        )
    return folder


def build_part_task(part: Part, folder: Path | None) -> EvaluationTask:
    """Return a part of a benchmark as a task, with its file below a folder, or its rows on the Hub.

    Raises:
        RecipeError: The file is not there, or there is neither a folder nor a source on the Hub.
    """
    benchmark = part.benchmark
    if folder is not None:
        source: dict[str, Any] = {"source": str(_find_file(part, folder))}
    elif part.name in benchmark.hub:
        name, split = benchmark.hub[part.name]
        source = {"source": name, "split": split}
    else:
        raise RecipeError(
            f"no folder to look for '{part.task_name}' in, which is not on the Hub",
            expected=f"a folder with {' or '.join(benchmark.files[part.name])}",
            cure=f"name it: --data FOLDER, or the environment variable {DATA_VARIABLE}",
            place=f"--suite {benchmark.name}",
        )
    values = {"name": part.task_name, "benchmark": f"{benchmark.name}@{benchmark.version}", "data": source}
    try:
        return _TASKS.validate_python(values)
    except ValidationError as error:
        raise RecipeError(
            f"the settings of the benchmark do not suffice: {error.errors()[0]['msg']}",
            expected="a task that its settings and its rows make up",
            cure=f"write a YAML suite whose task names 'benchmark: {benchmark.name}' and says the rest",
            place=f"--suite {benchmark.name}",
        ) from None


def _find_file(part: Part, folder: Path) -> Path:
    """Return the file of a part: one of the names that it is known by, compressed or not."""
    names = part.benchmark.files.get(part.name, ())
    for name in names:
        path = folder / name
        bare = path.with_suffix("") if path.suffix in COMPRESSIONS else path
        for spelled in (path, *list_spellings(bare)):
            if spelled.is_file():
                return spelled
    hub = part.benchmark.hub.get(part.name)
    elsewhere = f"; or leave --data out, so that {hub[0]} is read from the Hub" if hub else ""
    raise RecipeError(
        f"no file of '{part.task_name}' below {folder}",
        expected=" or ".join(names) + ", or one of these as .gz or .xz"
        if names
        else "a part that is published as files",
        cure=f"put the file there under one of these names, or name another folder with --data{elsewhere}",
        place=f"--suite {part.benchmark.name}",
    )
