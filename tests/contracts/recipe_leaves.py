"""For every key of a recipe: a value to change it to, and what can then be seen to be different.

`LEAVES` names each field of each configuration class as `Class.field`. A leaf is changed in one of the
`BASELINES` (a recipe in which the key matters), and its effect is looked at before and after.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.core.errors import PosttrainError
from posttrain.core.progress import SilentProgress
from posttrain.core.run_folder import RunFolder
from posttrain.pipeline.estimates import estimate_memory
from posttrain.pipeline.plan import build_plan
from posttrain.pipeline.policies import find_base, open_renderer
from posttrain.pipeline.recipe import Recipe, read_recipe
from posttrain.pipeline.run import run_recipe
from posttrain.pipeline.wiring import load_stage_data, preview_rows
from posttrain.stages.sft import SftConfig
from posttrain.training.distributed import Ranks
from tests.pipeline.tiny_runs import Finished, Workshop, make_base, make_rows, recipe_values, sft, task

TEMPLATE = (
    "{{ strftime_now('%Y') }} {{ greeting | default('none') }}{% for m in messages %}{{ m.role }}: {{ m.content }}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
OWN = """\
from pathlib import Path

from posttrain.core.config import Config as Base


class Config(Base):
    data: list[dict]


def run(config, inputs, parts, context):
    return {"policy": parts.publish(parts.policy)}


class Watch:
    def on_step(self, step, metrics, policy):
        Path(__file__).with_name("seen.txt").open("a").write(f"{step}\\n")


class Saves:
    def on_save(self, step, folder):
        Watch.on_step(self, step, None, None)


def length(completions, **columns):
    return [float(len(text)) for text in completions]
"""
LORA = {"rank": 4, "alpha": 8.0}


def stage(**changes: Any) -> dict[str, Any]:
    """A stage of three steps."""
    return sft(steps=changes.pop("steps", 3), **changes)


def long_rows(**changes: Any) -> dict[str, Any]:
    """A recipe in which some rows are too long."""
    values = {"data": [{"source": "long.jsonl"}], "max_length": 60, "truncation": "drop", "max_affected_fraction": 1.0}
    return recipe_values(stage(**{**values, **changes}))


BASELINES: dict[str, dict[str, Any]] = {
    "plain": recipe_values(stage()),
    "epochs": recipe_values(stage(steps=None, epochs=1.0)),
    "seven": recipe_values(stage(steps=7)),
    "saved": recipe_values(stage(callbacks=["own.py:Saves"])),
    "measured": recipe_values(stage(steps=1), evaluate=[task()]),
    "drawn": recipe_values(stage(steps=1), evaluate=[task(temperature=2.0)]),
    "validated": recipe_values(stage(validation=[{"source": "held_out.jsonl"}], learning_rate=5.0)),
    "adapter": recipe_values(stage(adapter=LORA)),
    "two": recipe_values(
        stage(adapter=LORA, adapter_start="new"), stage(name="more", adapter=LORA, adapter_start="continue")
    ),
    "mixed": recipe_values(
        stage(data=[{"source": "rows.jsonl", "proportion": 1.0}, {"source": "held_out.jsonl", "proportion": 1.0}])
    ),
    "turns": recipe_values(stage(data=[{"source": "turns.jsonl"}])),
    "documents": recipe_values(stage(data=[{"source": "documents.jsonl"}], max_length=64, max_affected_fraction=1.0)),
    "alpaca": recipe_values(stage(data=[{"source": "alpaca.jsonl"}])),
    "renamed": recipe_values(stage(data=[{"source": "renamed.jsonl", "columns": {"prompt": "a", "completion": "b"}}])),
    "lab": recipe_values(stage(data=[{"source": "lab:conversations", "rows": 10}])),
    "bad": recipe_values(stage(data=[{"source": "bad.jsonl", "max_bad_fraction": 0.5}])),
    "long": long_rows(),
    "template": recipe_values(stage(), chat={"template": "own.jinja"}),
}


def make_workshop(folder: Path) -> Workshop:
    """A folder with everything that the baselines name."""
    workshop = Workshop(folder, make_base(folder.with_name("tiny-base")))
    shutil.copytree(folder / "base", folder / "other")
    config = folder / "other" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "rms_norm_eps": 0.01}))
    (folder / "own.jinja").write_text(TEMPLATE)
    (folder / "own.py").write_text(OWN)

    def write(name: str, rows: list[dict[str, Any]], more: str = "") -> None:
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows) + more)

    turns = [{"role": r, "content": c} for r, c in zip(["user", "assistant"] * 2, "abcd", strict=True)]
    write("turns.jsonl", [{"messages": turns}] * 4)
    write("documents.jsonl", [{"text": f"the ant met the bee {n} times. " * (1 + 3 * (n > 2))} for n in range(4)])
    write("alpaca.jsonl", [{"instruction": f"say {n}", "input": "", "output": f"{n}"} for n in range(4)])
    write("renamed.jsonl", [{"a": f"say {n}", "b": f"{n}", "c": f"say {n}?"} for n in range(4)])
    make_rows(folder / "bad.jsonl", 5).open("a").write("no json\n")
    make_rows(folder / "long.jsonl", 6).open("a").write(json.dumps({"prompt": "x " * 8, "completion": "y" * 50}) + "\n")
    return workshop


@dataclass
class Trial:
    """A recipe as it stands in a workshop; what it does is looked at through the functions below."""

    workshop: Workshop
    values: dict[str, Any]
    into: str

    def read(self) -> Recipe:
        """The recipe, whose run folder is apart from that of any other trial."""
        values = dict(self.values)
        values["folder"] = f"{self.into}/{values.get('folder', 'run')}"
        path = self.workshop.folder / f"{self.into}.yaml"
        path.write_text(json.dumps(values))
        return read_recipe(path)

    def run(self) -> Finished:
        """The finished run."""
        return Finished(self.read(), RunFolder(run_recipe(self.read())))


def see_policy(trial: Trial) -> Any:
    """The name by content of the last policy: the key changes the weights."""
    return trial.run().hashes[-1]


def see_plan(trial: Trial) -> Any:
    """Rounds, steps, tokens and learning rates of the plan."""
    stages = build_plan(trial.read()).stages
    return [(s.name, s.round, s.type, s.steps, s.tokens, s.learning_rates) for s in stages]


def see_activations(trial: Trial) -> Any:
    """The bytes that a step keeps for the backward pass, by the estimate of the plan."""
    recipe = trial.read()
    config = recipe.stages[0].config
    assert isinstance(config, SftConfig)
    base = find_base(recipe)
    with open_renderer(recipe, base) as renderer:
        data = load_stage_data(recipe, config, renderer, 256, SilentProgress())
        return estimate_memory(base, config, data, Ranks(), 1).activations


def see_rows(trial: Trial) -> Any:
    """The first rows as they are trained on, or why there are none."""
    recipe = trial.read()
    try:
        return preview_rows(recipe, recipe.stages[0].name, 12)
    except PosttrainError as error:
        return error.found


def see_refusal(trial: Trial) -> Any:
    """Why the plan is refused; None if it is not."""
    try:
        build_plan(trial.read())
    except PosttrainError as error:
        return error.found
    return None


def see_ledger(trial: Trial) -> Any:
    """What becomes of the rows."""
    return trial.run().record["stages"][0]["ledger"]


def see_base(trial: Trial) -> Any:
    """What the first stage starts from, and its key."""
    plan = build_plan(trial.read())
    return plan.base_hash, plan.stages[0].key


def see_lines(trial: Trial) -> Any:
    """The metrics that are logged."""
    return trial.run().lines()


def see_items(trial: Trial) -> Any:
    """What the base answers, by the names of the files, and the metrics' names."""
    done = trial.run()
    files = {path.name: path.read_text() for path in done.folder.base.items_folder.glob("*.jsonl")}
    return files, [metric["name"] for metric in done.record["metrics"]]


def see_folders(trial: Trial) -> Any:
    """The run folder's place, the files in it, and the run's name."""
    done = trial.run()
    files = sorted(path.name.split(".tfevents")[0] for path in done.folder.stages.rglob("*") if "step" not in path.name)
    return done.folder.root.name, done.record["name"], files, [path.name for path in done.folder.stages.iterdir()]


def see_lineage(trial: Trial) -> Any:
    """What each stage starts from."""
    record = trial.run().record
    base = record["artifacts"][0]["hash"]
    return [entry["inputs"]["policy"] == base for entry in record["stages"]]


def see_callbacks(trial: Trial) -> Any:
    """What the user's own callback wrote."""
    seen = trial.workshop.folder / "seen.txt"
    seen.unlink(missing_ok=True)
    trial.run()
    return seen.read_text() if seen.exists() else None


@dataclass(frozen=True)
class Leaf:
    """A change of one key in a baseline, and what must then look different."""

    baseline: str
    path: str
    value: Any
    see: Callable[[Trial], Any]

    def change(self) -> dict[str, Any]:
        """The baseline with the key changed."""
        values = deepcopy(BASELINES[self.baseline])
        inner: Any = values
        *parents, last = [int(part) if part.isdigit() else part for part in self.path.split(".")]
        for part in parents:
            inner = inner[part]
        inner[last] = self.value
        return values


def own(path: str, value: Any, see: Callable[[Trial], Any], baseline: str = "plain") -> Leaf:
    """A leaf of the first stage."""
    return Leaf(baseline, f"stages.0.{path}", value, see)


LEAVES: dict[str, Leaf] = {
    "RecipeHead.name": Leaf("plain", "name", "other", see_folders),
    "RecipeHead.seed": Leaf("plain", "seed", 18, see_policy),
    "RecipeHead.folder": Leaf("plain", "folder", "elsewhere", see_folders),
    "RecipeHead.loggers": Leaf("plain", "loggers", ["tensorboard"], see_folders),
    "RecipeHead.evaluate": Leaf("plain", "evaluate", [task()], see_items),
    "ModelSource.source": Leaf("plain", "model", "other", see_base),
    "ModelSource.revision": Leaf("plain", "model", {"source": "base", "revision": "main"}, see_refusal),
    "ChatSettings.template": Leaf("plain", "chat", {"template": "own.jinja"}, see_rows),
    "ChatSettings.date": Leaf("template", "chat.date", "1999-12-31", see_rows),
    "ChatSettings.arguments": Leaf("template", "chat.arguments", {"greeting": "hello"}, see_rows),
    "EvaluationTask.name": Leaf("measured", "evaluate.0.name", "other", see_items),
    "EvaluationTask.data": Leaf("measured", "evaluate.0.data", {"source": "rows.jsonl"}, see_items),
    "EvaluationTask.scorer": Leaf("measured", "evaluate.0.scorer", "own.py:length", see_items),
    "EvaluationTask.max_new_tokens": Leaf("measured", "evaluate.0.max_new_tokens", 8, see_items),
    "EvaluationTask.temperature": Leaf("drawn", "evaluate.0.temperature", 1.0, see_items),
    "EvaluationTask.parts": Leaf("measured", "evaluate.0.parts", ["stopped"], see_items),
    "StageKeys.name": own("name", "other", see_folders),
    "StageKeys.type": Leaf(
        "plain", "stages.0", {"name": "sft", "type": "own.py:run", "data": [{"source": "rows.jsonl"}]}, see_plan
    ),
    "StageKeys.parent": Leaf("two", "stages.1", {**BASELINES["two"]["stages"][1], "from": "base"}, see_lineage),
    "StageKeys.repeat": own("repeat", 2, see_plan),
    "DataSource.source": own("data.0.source", "held_out.jsonl", see_rows),
    "DataSource.split": own("data.0.split", "development", see_rows, "lab"),
    "DataSource.format": own("data.0.format", "trl", see_rows, "alpaca"),
    "DataSource.columns": own("data.0.columns", {"prompt": "c", "completion": "b"}, see_rows, "renamed"),
    "DataSource.skip": own("data.0.skip", 2, see_rows),
    "DataSource.rows": own("data.0.rows", 2, see_rows),
    "DataSource.proportion": own("data.0.proportion", 3.0, see_policy, "mixed"),
    "DataSource.max_bad_fraction": own("data.0.max_bad_fraction", 0.1, see_refusal, "bad"),
    "SftConfig.mode": own("mode", "full_text", see_rows, "documents"),
    "SftConfig.data": own("data", [{"source": "held_out.jsonl"}, {"source": "rows.jsonl"}], see_policy),
    "SftConfig.validation": own("validation", [{"source": "held_out.jsonl"}], see_lines),
    "SftConfig.train_on": own("train_on", "last_assistant", see_rows, "turns"),
    "SftConfig.max_length": own("max_length", None, see_ledger, "long"),
    "SftConfig.truncation": own("truncation", "cut_completion", see_ledger, "long"),
    "SftConfig.max_affected_fraction": Leaf(
        "long", "stages.0", long_rows(truncation="refuse")["stages"][0] | {"max_affected_fraction": 0.0}, see_refusal
    ),
    "SftConfig.epochs": own("epochs", 2.0, see_plan, "epochs"),
    "SftConfig.steps": own("steps", 2, see_plan),
    "SftConfig.batch_size": own("batch_size", 4, see_policy),
    "SftConfig.micro_batch_tokens": own("micro_batch_tokens", 30, see_policy),
    "SftConfig.learning_rate": own("learning_rate", 2e-2, see_plan),
    "SftConfig.schedule": own("schedule", "linear", see_plan, "seven"),
    "SftConfig.warmup_fraction": own("warmup_fraction", 0.6, see_plan),
    "SftConfig.final_learning_rate_fraction": own("final_learning_rate_fraction", 0.5, see_plan),
    "SftConfig.weight_decay": own("weight_decay", 0.5, see_policy),
    "SftConfig.beta1": own("beta1", 0.5, see_policy),
    "SftConfig.beta2": own("beta2", 0.5, see_policy),
    "SftConfig.epsilon": own("epsilon", 0.1, see_policy),
    "SftConfig.max_grad_norm": own("max_grad_norm", 1e-3, see_policy),
    "SftConfig.ema_decay": own("ema_decay", 0.5, see_policy),
    "SftConfig.adapter": own("adapter", LORA, see_policy),
    "SftConfig.adapter_start": Leaf("two", "stages.1.adapter_start", "stack", see_policy),
    "SftConfig.dtype": own("dtype", "bfloat16", see_policy),
    "SftConfig.activation_checkpointing": own("activation_checkpointing", "on", see_activations),
    "SftConfig.packing": own("packing", "off", see_policy),
    "SftConfig.validate_every_steps": own("validate_every_steps", 1, see_lines, "validated"),
    "SftConfig.keep": own("keep", "best_validation_loss", see_policy, "validated"),
    "SftConfig.checkpoint_every_steps": own("checkpoint_every_steps", 3, see_callbacks, "saved"),
    "SftConfig.log_every_steps": own("log_every_steps", 3, see_lines, "seven"),
    "SftConfig.callbacks": own("callbacks", ["own.py:Watch"], see_callbacks),
    "LoraSettings.rank": own("adapter.rank", 2, see_policy, "adapter"),
    "LoraSettings.alpha": own("adapter.alpha", 32.0, see_policy, "adapter"),
    "LoraSettings.dropout": own("adapter.dropout", 0.5, see_policy, "adapter"),
    "LoraSettings.targets": own("adapter.targets", ["q_proj"], see_policy, "adapter"),
    "LoraSettings.init": own("adapter.init", "gaussian", see_policy, "adapter"),
}

WITHOUT_EFFECT: dict[str, str] = {
    "RecipeHead.model": "always there; what it holds is ModelSource's",
    "RecipeHead.chat": "always there; what it holds is ChatSettings'",
    "SftConfig.type": "says which class reads the stage: within the class it has one value",
}
"""Fields that are no leaf of their own, and why."""
