"""What a name in a comparison stands for: a policy, and the cards of what it was measured on.

| name | what it stands for |
| --- | --- |
| `runs/demo` | the policy that a run passed on, by what the run measured |
| `runs/demo:sft` | what a stage of a run made (`base` too), passed on or not |
| `runs/demo/artifacts/<hash>` | an artifact, by what its run measured |
| `evaluations/<hash>` | what `posttrain eval` measured |

Files are read as what anyone may have written: what is not of the expected form is refused with its place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.core.config import suggest
from posttrain.core.durable import read_json
from posttrain.core.errors import RecipeError, StorageError
from posttrain.core.records import ItemResult
from posttrain.core.run_folder import RunFolder
from posttrain.evaluation.items import read_items

EVALUATIONS = "evaluations"
_HASH = re.compile(r"[0-9a-f]{32}")
_CARD_TEXTS = ("task", "task_hash", "metric", "template", "rows")


@dataclass(frozen=True, slots=True)
class Side:
    """A policy under the name that it was asked for, and the cards of what it was measured on, by task.

    `notes` say what a reader must know of the name; `asked` are the problems that count, by task, where not all do.
    """

    name: str
    policy_hash: str
    cards: dict[str, dict[str, Any]]
    folder: Path
    notes: tuple[str, ...] = ()
    asked: Mapping[str, frozenset[str]] | None = None

    def read_items(self, task: str) -> list[ItemResult]:
        """Return the items of a task.

        Raises:
            StorageError: The file is torn.
        """
        items = read_items(self.folder / f"{self.cards[task]['file']}.jsonl")
        if self.asked is None:
            return items
        return [item for item in items if item.item_id in self.asked[task]]


def find_side(name: str) -> Side:
    """Return what a name stands for (see the module's table).

    Raises:
        RecipeError: Nothing that was measured.
        StorageError: A file of what was measured is torn, or holds something else.
    """
    text, _, stage = name.partition(":")
    if RunFolder(Path(text)).run_json.is_file():
        return _find_stage(name, RunFolder(Path(text)), stage or None)
    whole = Path(name)
    if _HASH.fullmatch(whole.name):
        if whole.parent.name == "artifacts" and RunFolder(whole.parent.parent).run_json.is_file():
            return read_side(name, whole.name, RunFolder(whole.parent.parent).evaluations(whole.name).root)
        if whole.parent.name == EVALUATIONS and whole.is_dir():
            return read_side(name, whole.name, whole)
    raise RecipeError(
        f"'{name}' names nothing that was measured",
        expected="a run (runs/demo), a stage of one (runs/demo:sft), an artifact of one, or evaluations/<hash>",
        cure="measure it now: add --suite NAME",
        place=name,
    )


@dataclass(frozen=True, slots=True)
class _Ran:
    """What is read of a run's record: policies and task hashes by stage, and what stages passed on, in order.

    `passed_on` holds of each stage that ended its name, its own policy, and the one that its gate passed on.
    """

    policies: dict[str, str]
    task_hashes: dict[str, dict[str, str]]
    passed_on: list[tuple[str, str, str | None]]


def _find_stage(name: str, run: RunFolder, stage: str | None) -> Side:
    ran = _read_run(run)
    if not ran.policies or (stage is not None and stage not in ran.policies):
        raise RecipeError(
            f"no stage '{stage}' was measured in {run.root}" if stage else f"nothing was measured in {run.root}",
            expected="one of " + ", ".join(ran.policies) if ran.policies else "a run whose recipe has 'evaluate:'",
            cure=suggest(str(stage), list(ran.policies)) if ran.policies else "add 'evaluate:' and run it again",
            place=name,
        )
    if stage is not None:
        policy, hashes = ran.policies[stage], ran.task_hashes[stage]
        [promoted] = [promoted for ended, _, promoted in ran.passed_on if ended == stage][-1:] or [policy]
        went_on = f"the run went on with {promoted}" if promoted else "the run went on with nothing"
        notes = () if promoted == policy else (f"{run.root}:{stage} was not passed on by its gate: {went_on}",)
        return read_side(f"{run.root}:{stage}", policy, run.evaluations(policy).root, hashes, notes=notes)
    return _find_passed_on(run, ran)


def _find_passed_on(run: RunFolder, ran: _Ran) -> Side:
    """Return the policy that a run passed on: what its last stage made, unless a gate went on with another."""
    if not ran.passed_on:
        stage = list(ran.policies)[-1]
        policy = made = last = ran.policies[stage]
    else:
        last, made, promoted = ran.passed_on[-1]
        policy = promoted or made
        makers = [stage for stage, known in ran.policies.items() if known == policy]
        stage = makers[-1] if makers else last
    notes = () if policy == made else (f"{run.root} stands for {policy}, which the gate of '{last}' went on with",)
    hashes = {task: found for of_stage in ran.task_hashes.values() for task, found in of_stage.items()}
    return read_side(f"{run.root}:{stage}", policy, run.evaluations(policy).root, hashes, notes=notes)


def _read_run(run: RunFolder) -> _Ran:
    """Return what comparisons read of a run's record.

    Raises:
        StorageError: The record is torn, or not a run's.
    """
    record = read_json(run.run_json)
    try:
        policies: dict[str, str] = {}
        hashes: dict[str, dict[str, str]] = {}
        for metric in record["metrics"]:
            if metric.get("policy") is not None:
                stage = _read_text(metric["stage"])
                policies[stage] = _read_hash(metric["policy"])
                hashes.setdefault(stage, {})[_read_text(metric["task"])] = _read_text(metric["task_hash"])
        passed_on: list[tuple[str, str, str | None]] = []
        for entry in record["stages"]:
            if entry["outputs"].get("policy") is not None:
                made, gate = _read_hash(entry["outputs"]["policy"]), entry["gate"]
                promoted = made if gate is None else gate["promoted"]
                passed_on.append((_read_text(entry["name"]), made, None if promoted is None else _read_hash(promoted)))
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise StorageError(
            f"not the record of a run: {error!r}",
            expected="a run.json written by 'posttrain run', whose policies are names of 32 hexadecimal digits",
            cure="run the same recipe again: the record is written anew",
            place=str(run.run_json),
        ) from None
    return _Ran(policies, hashes, passed_on)


def _read_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    return value


def _read_hash(value: Any) -> str:
    """Return a policy's name by content; anything else could lead out of the run's folder."""
    if not isinstance(value, str) or _HASH.fullmatch(value) is None:
        raise ValueError(f"{value!r} is no hash of a policy")
    return value


# many parameters: whose cards they are, and which of them are wanted
def read_side(
    name: str,
    policy_hash: str,
    folder: Path,
    hashes: Mapping[str, str] | None = None,
    seed: int | None = None,
    *,
    notes: tuple[str, ...] = (),
) -> Side:
    """Return a side with the cards of a folder: of each task the newest, or the one that is wanted by hash.

    Rows for selection are no result and are left out.

    Raises:
        RecipeError: There is none.
        StorageError: A card is torn, or holds something else.
    """
    cards: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns):
        card = _read_card(path)
        is_wanted = hashes is None or hashes.get(card["task"]) == card["task_hash"]
        if (
            is_wanted
            and card["rows"] == "data"
            and seed in (None, card["seed"])
            and path.with_suffix(".jsonl").is_file()
        ):
            cards[card["task"]] = {**card, "file": path.stem}
    if not cards:
        raise RecipeError(
            f"nothing that '{name}' answered is there",
            expected=f"items in {folder}",
            cure="measure it: posttrain eval MODEL --suite NAME",
            place=name,
        )
    return Side(name, policy_hash, cards, folder, notes)


def _read_card(path: Path) -> dict[str, Any]:
    card = read_json(path)
    is_usable = (
        isinstance(card, dict)
        and all(isinstance(card.get(key), str) for key in _CARD_TEXTS)
        and card["rows"] in ("data", "development")
        and isinstance(card.get("settings"), dict)
        and isinstance(card.get("parts"), list)
        and all(isinstance(part, str) for part in card["parts"])
        and type(card.get("seed")) is int
        and isinstance(card.get("tokenizer"), str | None)
        and isinstance(card.get("context_tokens"), int | None)
    )
    if not is_usable:
        raise StorageError(
            "not the card of an evaluation",
            expected="what 'posttrain eval' and 'posttrain run' write beside items",
            cure="measure the policy again, which writes it anew and asks nothing twice, or remove the file",
            place=str(path),
        )
    return card
