"""The parts of a model card, as lines of Markdown; whatever a model, a row or a file wrote is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.reports.card_metadata import find_base
from posttrain.reports.changes import WORDS
from posttrain.reports.columns import Column
from posttrain.reports.gaps import GapView
from posttrain.reports.gates import GateView
from posttrain.reports.markdown import escape, write_block, write_name, write_table
from posttrain.reports.matrix import Cell, Matrix
from posttrain.reports.monitors import MonitorsView
from posttrain.reports.numbers import format_count, format_seconds
from posttrain.reports.raw_values import list_of, mapping_of, number_of, text_of
from posttrain.reports.run_files import RunFiles
from posttrain.reports.tables import build_ledger

MAX_RECIPE_CHARACTERS = 20_000


def write_usage(folder: str | None, template_arguments: Mapping[str, Any], *, has_template: bool) -> list[str]:
    """Return how the model is asked with transformers alone.

    Args:
        folder: Where a plain model folder lies; None: it has to be exported first.
        template_arguments: What its chat template is given beside the messages.
        has_template: Whether it has a chat template at all.
    """
    lines = ["## How to use", ""]
    if folder is None:
        lines += [
            "Its adapters lie beside the base's weights: `posttrain export` writes a folder that transformers loads.",
            "",
        ]
    extra = "".join(f", {key}={value!r}" for key, value in template_arguments.items() if key.isidentifier())
    asked = (
        [
            'messages = [{"role": "user", "content": "Name three birds."}]',
            "inputs = tokenizer.apply_chat_template(",
            f'    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True{extra}',
            ")",
        ]
        if has_template
        else ['inputs = tokenizer("Three birds:", return_tensors="pt")']
    )
    code = [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'folder = "{folder or "exported"}"  # or the model\'s name on the Hub',
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        "model = AutoModelForCausalLM.from_pretrained(folder)",
        *asked,
        "output = model.generate(**inputs, max_new_tokens=128, do_sample=False)",
        'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))',
    ]
    return lines + write_block("\n".join(code), "python")


def write_evaluation(matrix: Matrix, place: int) -> list[str]:
    """Return every metric of one policy with its interval, n and change from the base, then the objectives by stage."""
    lines = ["## Evaluation", ""]
    rows = [*matrix.objectives, *matrix.others]
    if not any(row.cells[place] for row in rows):
        return [*lines, "Nothing was measured of this policy.", ""]
    lines += [
        "Each value with its 95 % interval; n counts every item, those that could not be read or were cut off too.",
        "",
    ]
    shown = [(row, cell) for row in rows if (cell := row.cells[place])]
    is_last = place == matrix.last
    lines += write_table(
        ["task", "metric", "value", "95 % interval", "items", "change from the base", "could not be scored"],
        [
            [
                escape(row.task),
                escape(f"{row.name} ({row.unit})" if row.unit else row.name),
                f"**{cell.value}**",
                cell.interval or "none",
                row.counted or cell.counted,
                _say_change(row.whole) if is_last else "",
                escape(cell.failures),
            ]
            for row, cell in shown
        ],
    )
    if len(matrix.columns) > 2:
        heads = ["objective", *(_head(column) for column in matrix.columns)]
        body = [[escape(f"{row.task} {row.name}"), *map(_say_cell, row.cells)] for row in matrix.objectives]
        signs = ", ".join(f"{sign} {word}" for word, (sign, _) in WORDS.items())
        lines += [
            f"By stage; after a value what became of it since the policy that its stage started from: {signs}.",
            "",
        ]
        lines += write_table(heads, body)
    return lines


def write_gates(files: RunFiles, gates: Sequence[GateView]) -> list[str]:
    """Return what the gate of every stage decided, and why."""
    rows = [
        [
            escape(stage.name),
            escape(", ".join(words for words, _ in gate.badges)),
            escape(gate.reason, 600),
            escape(gate.looks),
        ]
        for stage, gate in zip(files.stages, gates, strict=True)
    ]
    if not rows:
        return []
    return ["## What the gates decided", "", *write_table(["stage", "decision", "reason", "looks at the rows"], rows)]


def write_monitors(monitors: MonitorsView, stage: str) -> list[str]:
    """Return what the monitors say of one policy, alarms first."""
    states = [(view, state) for view in monitors.views for state in view.states if state.stage == stage]
    if not states:
        return ["## Monitors", "", "No monitor read this policy.", ""]
    order = ("alarm", "unmeasured", "silent")
    states.sort(key=lambda pair: order.index(pair[1].status) if pair[1].status in order else 0)
    rows = [
        [escape(view.name), f"{state.sign} {state.status}", escape(state.why), escape(view.fooled_by)]
        for view, state in states
    ]
    return ["## Monitors", "", *write_table(["monitor", "state", "why", "what would fool it"], rows)]


# many parameters: a policy's place, and all that is known of it
def list_weaknesses(
    matrix: Matrix, place: int, gates: Sequence[GateView], monitors: MonitorsView, gaps: GapView
) -> list[str]:
    """Return what is known against a policy and what is not known of it, each as escaped text."""
    column = matrix.columns[place]
    found = []
    if column.remark:
        found.append(f"This policy is {column.remark}: its gate did not let it through.")
    for row in [*matrix.objectives, *matrix.others]:
        cell = row.cells[place]
        label = escape(f"{row.task} {row.name}")
        if cell and cell.change and cell.change.word == "worse":
            found.append(f"{label} is worse than before its last stage: {_say_change(cell.change)}.")
        if place == matrix.last and row.whole and row.whole.word == "worse":
            found.append(f"{label} is worse than the base's: {_say_change(row.whole)}.")
    if column.stage is not None and column.stage < len(gates):
        found += _list_undecided(gates[column.stage])
    worst = _find_worst(matrix, place)
    if worst:
        found.append(worst)
    states = [(view, state) for view in monitors.views for state in view.states if state.stage == column.label]
    found += [
        f"Monitor {escape(view.name)}: {state.status}. {escape(state.why)}"
        for view, state in states
        if state.status != "silent"
    ]
    for missing in dict.fromkeys(line for gap in gaps.gaps for line in gap.missing):
        found.append(f"Not measured; to measure it, {missing}.")
    return found


def write_lineage(files: RunFiles, columns: Sequence[Column], gates: Sequence[GateView]) -> list[str]:
    """Return the way from the base to the last artifact, every step by hash."""
    base = next((column.policy for column in columns if column.label == "base"), "")
    lines = ["## Lineage", "", f"1. base {write_name(find_base(files.resolved) or 'unknown')}" + _hash(base)]
    for stage, gate in zip(files.stages, gates, strict=True):
        made = text_of(mapping_of(stage.entry.get("outputs")).get("policy"))
        facts = [escape(text_of(stage.entry.get("type"))), escape(", ".join(words for words, _ in gate.badges))]
        tokens, seconds = (number_of(stage.entry.get(key)) for key in ("tokens", "seconds"))
        facts += [f"{format_count(tokens)} tokens"] if tokens is not None else []
        facts += [format_seconds(seconds)] if seconds is not None else []
        passed = f"; passed on{_hash(gate.promoted)}" if gate.promoted and gate.promoted != made else ""
        lines.append(f"1. {escape(stage.name)} ({', '.join(filter(None, facts))}){_hash(made)}{passed}")
    return [*lines, ""]


def write_data(files: RunFiles) -> list[str]:
    """Return what every stage was trained on, and what became of its rows."""
    lines, rows = ["## Training data", ""], []
    recipes = {text_of(stage.get("name")): stage for stage in map(mapping_of, list_of(files.resolved.get("stages")))}
    for stage in files.stages:
        name = text_of(stage.entry.get("name")) or stage.name
        data = [mapping_of(one) for one in list_of(mapping_of(recipes.get(name)).get("data"))]
        sources = ", ".join(_say_source(one) for one in data)
        ledger = build_ledger(stage.ledger) if stage.ledger else None
        counts = [f"{count} {label}" for label, count, _, _ in ledger.parts] if ledger else []
        tokens = dict(ledger.facts).get("tokens trained", "") if ledger else ""
        rows.append([
            escape(stage.name),
            sources or "not recorded",
            ledger.rows_in if ledger else "not recorded",
            escape(", ".join(counts)),
            tokens,
        ])  # fmt: skip
    if not rows:
        return [*lines, "No stage was trained.", ""]
    return [*lines, *write_table(["stage", "sources", "rows in", "what became of them", "tokens trained on"], rows)]


def write_rebuild(files: RunFiles) -> list[str]:
    """Return how to make the model again: the command, the recipe, and all that its bytes depend on."""
    run = files.run
    given = " ".join(f"--override {name}" for name in list_of(run.get("overrides")) if _is_plain(name))
    lines = ["## How to build it again", ""]
    lines += write_block(f"posttrain run recipe.yaml {given}".rstrip(), "sh")
    facts = [(key.replace("_", " "), text_of(run.get(key))) for key in ("recipe_hash", "plan_hash", "seed")]
    facts += [(key, text_of(value)) for key, value in mapping_of(run.get("versions")).items() if value is not None]
    known = dict(facts)
    machine = [(key.replace("_", " "), text_of(value)) for key, value in mapping_of(run.get("machine")).items()]
    facts += [(key, value) for key, value in machine if known.get(key) != value]
    lines += write_table(["what", "value"], [[escape(key), escape(value)] for key, value in facts if value])
    if files.recipe:
        shown, num_left = _cut_lines(files.recipe, MAX_RECIPE_CHARACTERS)
        lines += ["The recipe:", "", *write_block(shown, "yaml")]
        if num_left:
            lines += [f"{num_left:,} more lines of the recipe are left out here: the run's folder holds it whole.", ""]
    return lines


def _cut_lines(text: str, limit: int) -> tuple[str, int]:
    """Return the whole lines at a text's beginning that have at most `limit` characters, and how many are left out."""
    if len(text) <= limit:
        return text, 0
    end = text.rfind("\n", 0, limit) + 1
    return text[:end], len(text[end:].splitlines())


def _list_undecided(gate: GateView) -> list[str]:
    """Return the rules of a gate's last decision that did not pass, and whether it was overridden."""
    found = ["Its gate was overridden."] if ("overridden", "override") in gate.badges else []
    decided = [attempt.decisions[-1] for attempt in gate.attempts if attempt.decisions and attempt.is_passed_on]
    decided = decided or [attempt.decisions[-1] for attempt in gate.attempts if attempt.decisions][-1:]
    rules = [rule for decision in decided for rule in decision.rules if rule.state != "passed"]
    return found + [
        f"The gate's rule {escape(f'{rule.kind} {rule.metric}')} is {rule.state}: {escape(rule.reason)}"
        for rule in rules
    ]


def _find_worst(matrix: Matrix, place: int) -> str:
    """Return the lowest score of a policy among those in percent, where there are several."""
    scores = [
        (cell.amount, row, cell)
        for row in matrix.objectives
        if row.is_main and (cell := row.cells[place]) and cell.amount is not None and cell.value.endswith("%")
    ]
    if len(scores) < 2:
        return ""
    _, row, cell = min(scores, key=lambda score: score[0])
    return f"Its lowest score is {cell.value} ({cell.interval or 'no interval'}) on {escape(row.task)}."


def _say_cell(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    change = f" {cell.change.sign}" if cell.change else ""
    return f"{cell.value}{f' ({cell.interval})' if cell.interval else ''}{change}"


def _say_change(change: Any) -> str:
    if change is None:
        return ""
    return f"{change.sign} {change.amount} {change.word}" + (f" ({change.limits})" if change.limits else "")


def _head(column: Column) -> str:
    return escape(f"{column.heading}, {column.remark}" if column.remark else column.heading)


def _hash(value: str) -> str:
    return f" {write_name(value)}" if value else ""


def _say_source(data: Mapping[str, Any]) -> str:
    rows = number_of(data.get("rows"))
    split = f", split {escape(text_of(data.get('split')))}" if data.get("split") else ""
    return (
        write_name(text_of(data.get("source"))) + split + (f", {format_count(rows)} rows" if rows is not None else "")
    )


def _is_plain(name: Any) -> bool:
    return isinstance(name, str) and write_name(name).startswith("`")
