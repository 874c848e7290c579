"""Tasks of lm-evaluation-harness as YAML over files of rows, measured by this project and by the harness alone."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.core.progress import SilentProgress
from posttrain.evaluation.harness_task import HarnessTask
from posttrain.pipeline.evaluating import Evaluated, EvaluationChoice, evaluate_model
from posttrain.pipeline.measure import Measured
from posttrain.pipeline.roots import Roots
from posttrain.pipeline.suites import Suite

TASKS_FOLDER = "harness_tasks"
HEAD = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: {kind}
"""
CHOICES = """\
doc_to_text: "{question}\\nAnswer:"
doc_to_target: {right}
doc_to_choice: choices
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
  - {{metric: brier_score, aggregation: brier_score, higher_is_better: false}}
metadata: {{version: 1.0}}
"""
ROLLING = """\
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list:
  - {{metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}}
  - {{metric: byte_perplexity, aggregation: weighted_perplexity, higher_is_better: false}}
  - {{metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}}
"""
LAST_WORD = """\
doc_to_text: "{{{{text.split(' ')[:{words}] | join(' ')}}}}"
doc_to_target: "{{{{' ' + text.split(' ')[{words}]}}}}"
metric_list:
  - {{metric: perplexity, aggregation: perplexity, higher_is_better: false}}
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""
DRAWN = """\
doc_to_text: "{question}\\nAnswer:"
doc_to_target: "{target}"
generation_kwargs: {{until: ["\\n", "?"], max_gen_toks: {tokens}, do_sample: false}}
filter_list:
  - {{name: first, filter: [{{function: regex, regex_pattern: "(\\\\S+)"}}, {{function: take_first}}]}}
  - {{name: whole, filter: [{{function: take_first}}]}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
  - {{metric: chrf, aggregation: chrf, higher_is_better: true}}
"""


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_task(folder: Path, name: str, kind: str, file: Path, body: str) -> None:
    """Write a task's YAML below the folder of tasks."""
    tasks = folder / TASKS_FOLDER
    tasks.mkdir(exist_ok=True)
    (tasks / f"{name}.yaml").write_text(HEAD.format(name=name, file=file, kind=kind) + body)


def build_task(task: str, **changes: Any) -> HarnessTask:
    """A task of the folder of tasks."""
    values = {"name": task.replace("_", "-"), "type": "harness", "task": task, "include": TASKS_FOLDER, **changes}
    return HarnessTask.model_validate(values)


def measure(model: Path, folder: Path, *tasks: HarnessTask, **choice: Any) -> Evaluated:
    """Measure a model on tasks, into the folder that they lie in."""
    suite = Suite("harnessed", 1, tuple(tasks), Roots(base=folder, folders=(folder,)), {})
    chosen = EvaluationChoice(suite, folder=folder / "measured", dtype="float32", **choice)
    return evaluate_model(str(model), chosen, SilentProgress(), lambda: False)


def measure_by_harness(model: Path, folder: Path, names: Sequence[str], **arguments: Any) -> dict[str, Any]:
    """Measure a model on the same tasks with the harness alone, one row at a time."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder / TASKS_FOLDER), include_defaults=False)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        found: dict[str, Any] = lm_eval.simple_evaluate(
            model="hf",
            model_args={"pretrained": str(model), "dtype": "float32"},
            tasks=list(names),
            device="cpu",
            batch_size=1,
            task_manager=manager,
            bootstrap_iters=0,
            **arguments,
        )
    return found


def compare(ours: Mapping[str, Measured], theirs: dict[str, Any], names: Sequence[str]) -> dict[str, float]:
    """Check that both gave the same texts, and return the largest differences: of metrics, and of log-likelihoods.

    That of a metric above 1, such as the perplexity of a random model, is a share of it.
    """
    worst = {"metrics": 0.0, "loglikelihoods": 0.0}
    for name in names:
        measured = ours[name]
        figures = {metric["name"]: metric["value"] for metric in measured.metrics}
        for key, value in theirs["results"][name].items():
            metric, _, name_of_filter = key.partition(",")
            if not name_of_filter or metric.endswith("_stderr"):
                continue
            found = figures[metric] if name_of_filter == "none" else figures[key]
            worst["metrics"] = max(worst["metrics"], abs(found - float(value)) / max(1.0, abs(float(value))))
        items = {item.item_id: item for item in measured.read_items()}
        assert len(items) == len({sample["doc_id"] for sample in theirs["samples"][name]})
        for sample in theirs["samples"][name]:
            item = items[str(sample["doc_id"])]
            for index, [response] in enumerate(sample["resps"]):
                if isinstance(response, str):
                    assert item.text == response, (name, item.item_id)
                    continue
                is_pair = isinstance(response, tuple | list)
                value = response[0] if is_pair else response
                parts = item.outcome.parts
                difference = abs(parts[f"loglikelihood_{index}"] - float(value))
                worst["loglikelihoods"] = max(worst["loglikelihoods"], difference)
                assert not is_pair or bool(parts[f"greedy_{index}"]) == bool(response[1]), (name, item.item_id)
    return worst
