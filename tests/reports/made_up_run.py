"""Writes a made-up run folder, realistic enough to look at: two stages, 200 items, eight rows as trained.

`write_run(folder)` is a finished run; `text` may replace what data and models wrote, to see that
nothing of it comes alive in a report.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from posttrain.core.hashing import hash_text
from posttrain.core.records import Source
from posttrain.core.run_folder import RunFolder
from posttrain.core.seeds import build_numpy_generator
from posttrain.data.ledger import DropKind, Ledger
from tests.reports.made_up_gates import gate_of, make_preflight, poison
from tests.reports.made_up_monitors import make_readings

NUM_ITEMS = 200
STAGES = (("sft", 300), ("sft-expert", 120))
TASKS = ("held_out", "arithmetic")
POLICIES = {"base": hash_text("artifact", "seedling")} | {name: hash_text("artifact", name) for name, _ in STAGES}
RIGHT = {"base": (0.05, 0.19), "sft": (0.81, 0.55), "sft-expert": (0.885, 0.575)}
QUESTIONS = (
    ("What is {a} plus {b}?", "{a} + {b} = {c}.\nAnswer: {c}", "I think it is {w} because numbers go on"),
    ("Take {b} from {d}.", "{d} - {b} = {a2}.\nAnswer: {a2}", "{d} {d} {b}, and the baker of Alwick said"),
    ("Which river runs through Brannock?", "The Ister runs through Brannock.", "Which river runs through Toll? Wh"),
    ("Reverse the list: pear, fig, {a}.", "{a}, fig, pear", "pear, fig, {a}, pear, fig, {a}, pear, fig"),
)
RECIPE = """schema: 1
name: demo
seed: 17
model: lab:seedling
evaluate:
  - {name: held_out, data: {source: lab:conversations, split: held_out, rows: 200}, scorer: exact_match}
  - {name: arithmetic, data: {source: lab:arithmetic, split: held_out, rows: 200}, scorer: exact_match}
stages:
  - name: sft
    type: sft
    data: [{source: lab:conversations, rows: 8000}]
    learning_rate: 1e-3          # warm-up 5 %, then cosine
    batch_size: 32
  - name: sft-expert
    type: sft
    data: [{source: lab:expert, rows: 2000}]
    learning_rate: 3e-4
"""


def identity(text: str) -> str:
    """Return the text as it is."""
    return text


def write_run(root: Path, *, text: Callable[[str], str] = identity, num_finished: int = 2) -> Path:
    """Write a run of two stages of which `num_finished` are done; `text` maps all text of unknown origin."""
    folder = RunFolder(root)
    root.mkdir(parents=True, exist_ok=True)
    folder.recipe.write_text(RECIPE if text is identity else text(RECIPE))
    folder.resolved.write_text(json.dumps({"model": text("lab:seedling")}))
    write_items(folder, "base", text)
    for index, (name, num_steps) in enumerate(STAGES[:num_finished]):
        stage = folder.stage(index, name)
        stage.root.mkdir(parents=True)
        write_lines(stage.metrics, training_lines(name, num_steps, text))
        stage.ledger.write_text(json.dumps(make_ledger(index, text)))
        stage.preview.write_text(json.dumps(make_rows(text)))
        write_items(folder, name, text)
    folder.run_json.write_text(json.dumps(make_run(text, num_finished), indent=2))
    return root


def make_run(text: Callable[[str], str], num_finished: int) -> dict[str, Any]:
    """Return run.json of the made-up run."""
    base, *hashes = POLICIES.values()
    stages: list[dict[str, Any]] = []
    for index, (name, num_steps) in enumerate(STAGES):
        is_done = index < num_finished
        stages.append(
            {
                "name": text(name),
                "round": 0,
                "type": "sft",
                "status": "finished" if is_done else "running" if index == num_finished else "pending",
                "key": hash_text("key", name),
                "inputs": {"policy": hashes[index - 1] if index else base, "rows": hash_text("rows", name)},
                "outputs": {"policy": hashes[index]} if is_done else {},
                "seconds": num_steps * 0.41 if is_done else None,
                "tokens": num_steps * 32 * 78 if is_done else None,
                "ledger": make_ledger(index, text) if is_done else None,
                "gate": poison(gate_of(name), text) if is_done else None,
            }
        )
    artifacts = [{"hash": base, "kind": "policy", "folder": "artifacts/" + base, "parents": [], "stage": "base"}]
    artifacts += [
        {
            "hash": hashes[index],
            "kind": "policy",
            "folder": text(f"artifacts/{hashes[index]}"),
            "parents": [hashes[index - 1] if index else base],
            "stage": text(name),
        }
        for index, (name, _) in enumerate(STAGES[:num_finished])
    ]
    return {
        "schema": 1,
        "name": text("demo"),
        "recipe_hash": hash_text("recipe"),
        "plan_hash": hash_text("plan"),
        "seed": 17,
        "status": "finished" if num_finished == len(STAGES) else "running",
        "versions": {
            "posttrain": "0.1.0",
            "python": "3.11.2",
            "torch": text("2.13.0+cpu"),
            "transformers": "5.23.0",
            "tokenizers": "0.22.1",
        },
        "machine": {"processor": text("x86_64, 2 cores"), "memory_bytes": 16 << 30, "threads": 1, "device": "cpu"},
        "stages": stages,
        "metrics": [*measure("base", text), *(m for name, _ in STAGES[:num_finished] for m in measure(name, text))],
        "artifacts": artifacts,
        "report": "report.html" if num_finished == len(STAGES) else None,
        "preflight": poison(make_preflight(), text),
        "overrides": ["gate:sft-expert", text("memory")] if num_finished == len(STAGES) else [],
        "monitors": make_readings(["base", *(name for name, _ in STAGES[:num_finished])], POLICIES, text),
    }


def measure(stage: str, text: Callable[[str], str]) -> list[dict[str, Any]]:
    """Return the metrics after one stage, with Wilson's 95 % intervals."""
    stop = {"base": 0.03, "sft": 0.985, "sft-expert": 0.995}[stage]
    label = text(stage) if stage != "base" else stage
    lines: list[dict[str, Any]] = []
    for index, task in enumerate(TASKS):
        right = RIGHT[stage][index]
        for name, value in (("exact_match", right), ("stop_rate", stop)):
            truncated = round((1 - stop) * NUM_ITEMS)
            low, high = wilson(value, NUM_ITEMS)
            lines.append(
                {
                    "stage": label,
                    "task": task,
                    "name": name if text is identity else text(name),
                    "value": value,
                    "low": low,
                    "high": high,
                    "n": NUM_ITEMS,
                    "method": "wilson",
                    "outcomes": {"scored": NUM_ITEMS - truncated, "unparsed": 0, "truncated": truncated, "harness": 0},
                    "task_hash": hash_text(task),
                    "template": hash_text("template") if text is identity else text("template"),
                    "settings": {
                        "max_new_tokens": 32,
                        "temperature": 0.0,
                        "top_p": None,
                        "stop": [text("###")],
                        "scorer": {"type": "weighted", "components": list_components(text)} if index else text("lab"),
                    },
                    "clusters": 50,
                }
            )
    # A metric of which no items are recorded, under a name that may be any text.
    bare = {"stage": label, "task": text("writing"), "name": text("judged"), "value": stop / 2, "low": None}
    return [*lines, {**bare, "high": None, "n": 40, "method": "none", "outcomes": {"scored": 40}}]


def list_components(text: Callable[[str], str]) -> list[dict[str, Any]]:
    """Return the components of the second task's scorer."""
    return [
        {"name": text("right"), "scorer": "math", "weight": 3.0, "role": "term"},
        {"name": text("form"), "scorer": "structure", "weight": 1.0, "role": "term"},
        {"name": text("length"), "scorer": "length", "weight": -0.1, "role": "shaping"},
    ]


def wilson(share: float, n: int) -> tuple[float, float]:
    """Return Wilson's interval at 95 %."""
    z = 1.959964
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def training_lines(name: str, num_steps: int, text: Callable[[str], str]) -> Iterator[dict[str, Any]]:
    """Yield the logged lines of a stage: every second step, and the validation loss every thirtieth."""
    noise = build_numpy_generator(17, name)
    start, end, peak = (3.1, 0.92, 1e-3) if name == "sft" else (0.96, 0.71, 3e-4)
    for step in range(2, num_steps + 1, 2):
        share = step / num_steps
        loss = end + (start - end) * math.exp(-5.5 * share)
        warm = min(1.0, share / 0.05)
        yield {
            "step": step,
            "loss": loss * (1 + 0.035 * noise.standard_normal()),
            "mean_token_accuracy": 1 - loss / 5,
            "entropy": loss * 0.9,
            "learning_rate": peak * warm * 0.5 * (1 + math.cos(math.pi * share)),
            "grad_norm": (0.5 + 2.2 * math.exp(-8 * share)) * math.exp(0.22 * noise.standard_normal()),
            "num_tokens": step * 32 * 78,
            "epoch": share * 1.2,
            "time/tokens_per_second": 6100 + 240 * noise.standard_normal(),
            "time/step_seconds": 0.41,
            text("time/peak_memory_bytes"): 911_000_000,
        }
        if step % 30 == 0:
            yield {"step": step, "validation/loss": loss * 1.03 + 0.02}


def make_ledger(index: int, text: Callable[[str], str]) -> dict[str, Any]:
    """Return a ledger that balances."""
    ledger = Ledger(rows_in=2000 if index else 8000)
    num_dropped = 0
    if not index:
        reasons: tuple[tuple[str, DropKind, int, int], ...] = (
            ("longer than max_length", "length", 31, 290),
            ("no trainable token", "empty", 12, 20),
            ("invalid UTF-8", "bad", 2, 0),
        )
        for reason, kind, count, num_tokens in reasons:
            for row in range(count):
                name, detail = text(f"conversations.jsonl:{41 * row + 7}"), text("after the second turn")
                ledger.drop(name, text(reason), kind=kind, tokens=num_tokens, detail=detail)
            num_dropped += count
        ledger.shorten(text("conversations.jsonl:9"), "cut_completion", tokens=40, detail=text("cut"), is_stop_cut=True)
    for row in range(ledger.rows_in - num_dropped):
        ledger.train(samples=1, tokens=60 + row % 31, tokens_trained=30 + row % 17)
    ledger.check_balance()
    return ledger.to_json()


def make_rows(text: Callable[[str], str]) -> list[dict[str, Any]]:
    """Return eight rows as trained, under a ChatML-like template."""
    rows = []
    for index in range(8):
        question, answer, _ = make_item(index)
        tokens: list[list[Any]] = []
        if index % 3 == 0:
            add_turn(tokens, "system", Source.SYSTEM, "You are brief and polite.", is_trained=False)
        add_turn(tokens, "user", Source.USER, text(question), is_trained=False)
        add_turn(tokens, "assistant", Source.ASSISTANT, text(answer), is_trained=True)
        rows.append({"row_id": text(f"conversations.jsonl:{index + 1}"), "tokens": tokens})
    return rows


def add_turn(tokens: list[list[Any]], role: str, source: Source, content: str, *, is_trained: bool) -> None:
    """Append one turn's tokens; the stop token of a trained turn is trained too, the line break after it is not."""

    def add(piece: str, whose: Source, flag: bool) -> None:
        tokens.append([piece, len(piece) * 37 % 1000, int(whose), int(flag)])

    for piece in ("<|im_start|>", role, "\n"):
        add(piece, Source.TEMPLATE, False)
    for piece in re.findall(r" ?\w+|[^\w\s]+|\s+", content) or [content]:
        add(piece, source, is_trained)
    add("<|im_end|>", Source.TEMPLATE, is_trained)
    add("\n", Source.TEMPLATE, False)


def make_item(index: int) -> tuple[str, str, str]:
    """Return a question, its right answer and a wrong one."""
    question, right, wrong = QUESTIONS[index % len(QUESTIONS)]
    a, b = 12 + 7 * index % 61, 5 + 11 * index % 47
    values = {"a": a, "b": b, "c": a + b, "d": a + b + 3, "a2": a + 3, "w": a + b + 1}
    return question.format(**values), right.format(**values), wrong.format(**values)


def write_items(folder: RunFolder, name: str, text: Callable[[str], str]) -> None:
    """Write the items of a stage's policy; the same items fail in every stage, fewer of them later."""
    for task_index, task in enumerate(TASKS):
        order = build_numpy_generator(3, task).permutation(NUM_ITEMS)
        num_right = round(RIGHT[name][task_index] * NUM_ITEMS)
        lines = []
        for index in range(NUM_ITEMS):
            question, right, wrong = make_item(index)
            is_right = order[index] < num_right
            is_cut = not is_right and name == "base"
            parts = {text("right"): float(is_right), text("form"): float(index % 5 > 0), text("length"): -0.5}
            outcome: dict[str, Any] = {"status": "truncated" if is_cut else "scored", "value": float(is_right)}
            outcome["parts"] = {**(parts if task_index else {}), "stopped": float(not is_cut)}
            outcome["fault"] = "policy" if is_cut else None
            outcome["why"] = text("no stop token within 32 tokens") if is_cut else ""
            lines.append(
                {
                    "item_id": text(f"{task}-{index:04d}"),
                    "cluster_id": str(index),
                    "task_hash": hash_text(task),
                    "sample_index": 0,
                    "outcome": outcome,
                    "policy_hash": POLICIES[name],
                    "text": text(right if is_right else wrong),
                    "prompt": [{"role": "user", "content": text(question)}],
                    "reference": text(right),
                }
            )
        write_lines(items_path(folder, name, task), lines)


def items_path(folder: RunFolder, name: str, task: str) -> Path:
    """Return where the items of a task lie that the policy of a stage answered."""
    return folder.evaluations(POLICIES[name]).items(task, hash_text(task))


def write_lines(path: Path, lines: Any) -> None:
    """Write JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
