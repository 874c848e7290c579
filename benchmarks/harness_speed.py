"""Items a second beside lm-evaluation-harness on the same rows, by the same rule, with the same model.

    python -m benchmarks.harness_speed MODEL DATA --rounds 3 --batch-size 64

ARC easy and the first thousand of HellaSwag by log-likelihood, and stories to go on with, greedily. Both sides run in
turn, each in a process of its own that loads the model first; timed is what comes then, from rows to figures. Values
that should agree stand beside the rates: accuracy by sum (`acc`) and the share of equal completions.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.alternate import Record, run_alternating, summarise, summarise_ratios
from benchmarks.tables import format_table

TASKS = ("arc_easy", "hellaswag", "stories")
NEW_TOKENS = 64
_CHOICE = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: choices
doc_to_target: answer
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
_GENERATION = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{prompt}}}}"
doc_to_target: answer
generation_kwargs: {{until: ["\\n\\n\\n"], do_sample: false, max_gen_toks: {tokens}}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""


def write_tasks(data: Path, folder: Path, rows: int | None) -> None:
    """Write the rows of every task in one form for both sides, and what each side reads beside them."""

    def read(name: str) -> list[dict[str, Any]]:
        with gzip.open(data / name, "rt", encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    arc = [
        {"prompt": f"{row['query']}\nAnswer:", "choices": row["choices"], "answer": row["gold"]}
        for row in read("gates/arc_easy.jsonl.gz")
        if len(set(row["choices"])) == len(row["choices"])
    ]
    hellaswag = [
        {"prompt": row["context"], "choices": row["endings"], "answer": row["label"]}
        for row in read("gates/hellaswag_val.jsonl.gz")[:1000]
        if len(set(row["endings"])) == len(row["endings"])
    ]
    stories = [
        {"prompt": row["text"][:120].rpartition(" ")[0], "answer": "-"}
        for row in read("text/tinystories_1000.jsonl.gz")
    ]
    for name, found in zip(TASKS, (arc, hellaswag, stories[:300]), strict=True):
        path = folder / f"{name}.jsonl"
        kept = found[:rows]
        if name != "stories":  # labels keep an answer from being read as a text
            labelled = [
                {**row, "choices": {"text": row["choices"], "label": list(range(len(row["choices"])))}} for row in kept
            ]
            (folder / f"{name}.own.jsonl").write_text("\n".join(map(json.dumps, labelled)) + "\n", encoding="utf-8")
        path.write_text("\n".join(map(json.dumps, kept)) + "\n", encoding="utf-8")
        form = _GENERATION if name == "stories" else _CHOICE
        (folder / f"{name}.yaml").write_text(form.format(name=f"local_{name}", rows=path, tokens=NEW_TOKENS))


def run_harness(model: str, folder: Path, name: str, batch_size: str) -> Record:
    """Measure with lm-evaluation-harness's Hugging Face back-end."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    loaded = HFLM(pretrained=model, dtype="float32", device=find_device(), batch_size=batch_size, max_batch_size=256)
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    began = time.perf_counter()
    found = simple_evaluate(
        model=loaded, tasks=[f"local_{name}"], task_manager=manager, bootstrap_iters=0, log_samples=True
    )
    seconds = time.perf_counter() - began
    samples = sorted(found["samples"][f"local_{name}"], key=lambda sample: sample["doc_id"])
    if name == "stories":
        answers: list[Any] = [sample["filtered_resps"][0].strip() for sample in samples]
    else:
        answers = [sample["acc"] for sample in samples]
    return {"seconds": seconds, "items": len(samples), "answers": answers}


def run_own(model: str, folder: Path, name: str) -> Record:
    """Measure with posttrain."""
    from posttrain.core.progress import SilentProgress
    from posttrain.core.run_folder import RunFolder
    from posttrain.evaluation.task import ChoiceTask, GenerationTask
    from posttrain.models.loading import load_policy
    from posttrain.pipeline.measure import Measurer, MeasureSettings
    from posttrain.pipeline.roots import declare_roots
    from posttrain.pipeline.talking import open_policy_renderer

    rows = {"source": str(folder / f"{name}{'' if name == 'stories' else '.own'}.jsonl")}
    with ExitStack() as stack:
        loaded = load_policy(Path(model), dtype="float32", device=find_device())
        renderer = stack.enter_context(open_policy_renderer(loaded, is_raw=False))
        settings = MeasureSettings(declare_roots(folder / "own.yaml"), {}, "float32")
        measured_in = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        measurer = Measurer(settings, RunFolder(measured_in), renderer, SilentProgress())
        policy = measurer.open(stack, Path(model), loaded.hash)
        policy.take(loaded)
        task: Any
        if name == "stories":
            task = GenerationTask(name=name, data=rows, form="text", max_new_tokens=NEW_TOKENS, stop=["\n\n\n"])
        else:
            task = ChoiceTask(name=name, type="choice", data=rows, form="text", normalisation="sum")
        began = time.perf_counter()
        measured = measurer.measure(policy, task)
        seconds = time.perf_counter() - began
        items = measured.read_items()
    # The harness decodes what was drawn without what was before, by which some tokenizers lose the first space.
    answers = [item.text.strip() if name == "stories" else item.outcome.value for item in items]
    return {"seconds": seconds, "items": len(items), "answers": answers}


def find_device() -> str:
    """Return the GPU if there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def describe(name: str, records: dict[str, list[Record]]) -> list[str]:
    """Return a line of the table: rates of both sides, their ratio within rounds, and how far answers agree."""
    rates = {side: [run["items"] / run["seconds"] for run in runs] for side, runs in records.items()}
    shown = []
    for side in ("own", "harness"):
        spread = summarise(rates[side])
        shown.append(f"{spread.median:.1f} ({spread.low:.1f} to {spread.high:.1f})")
    ratio = summarise_ratios(rates["own"], rates["harness"])
    ours, theirs = (records[side][0]["answers"] for side in ("own", "harness"))
    same = sum(a == b for a, b in zip(ours, theirs, strict=True))
    values = (
        "" if name == "stories" else f"{100 * statistics.mean(ours):.2f} and {100 * statistics.mean(theirs):.2f} %, "
    )
    times = f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"
    return [name, f"{len(ours):,}", *shown, times, f"{values}{same:,} items equal"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder in Hugging Face format")
    parser.add_argument("data", type=Path, help="the folder of public data sets")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, help="at most so many rows a task")
    parser.add_argument("--batch-size", default="64", help="lm-evaluation-harness's: a number, or auto")
    parser.add_argument("--side", nargs=3, metavar=("SIDE", "TASK", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        side, name, folder = arguments.side
        if side == "own":
            print(json.dumps(run_own(arguments.model, Path(folder), name)))
        else:
            print(json.dumps(run_harness(arguments.model, Path(folder), name, arguments.batch_size)))
        return
    lines = []
    with tempfile.TemporaryDirectory() as made:
        write_tasks(arguments.data, Path(made), arguments.rows)
        start = [sys.executable, "-m", "benchmarks.harness_speed", arguments.model, str(arguments.data)]
        start += ["--batch-size", arguments.batch_size]
        for name in arguments.tasks:
            sides = {
                side: lambda _, side=side, name=name: [*start, "--side", side, name, made]
                for side in ("own", "harness")
            }
            records = run_alternating(sides, arguments.rounds, lambda record: f"{record['seconds']:.1f} s")
            lines.append(describe(name, records))
    titles = ["task", "items", "posttrain, items/s", "lm-evaluation-harness, items/s", "ratio", "values"]
    print(format_table(titles, lines))


if __name__ == "__main__":
    main()
