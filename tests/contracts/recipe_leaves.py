"""For every key of a recipe: a value to change it to, and what can then be seen to be different.

`LEAVES` names each field of each configuration class as `Class.field`. A leaf is changed in one of the
`BASELINES` (a recipe in which the key matters), and its effect is looked at before and after.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from posttrain.core.errors import PosttrainError, RefusedError
from posttrain.core.progress import SilentProgress
from posttrain.core.records import ItemResult
from posttrain.core.run_folder import RunFolder
from posttrain.evaluation.monitors.settings import MONITORS, read_monitor
from posttrain.pipeline.estimates import estimate_memory
from posttrain.pipeline.plan import build_plan
from posttrain.pipeline.policies import find_base, open_renderer
from posttrain.pipeline.preflight.override_names import list_override_names
from posttrain.pipeline.recipe import Recipe, read_recipe
from posttrain.pipeline.run import run_recipe
from posttrain.pipeline.wiring import find_contaminated_rows, load_stage_data, preview_rows
from posttrain.stages.sft import SftConfig
from posttrain.training.distributed import Ranks
from tests.contracts.recipe_baselines import BASELINES, KEEP, LORA, ORDERED, SAMPLED, WATCHED, long_rows
from tests.evaluation.monitors.planted import make_item, make_items
from tests.pipeline.tiny_runs import Finished, Workshop, task


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


def see_left_out(trial: Trial) -> Any:
    """The training rows that hold evaluation items, and how."""
    recipe = trial.read()
    config = recipe.stages[0].config
    assert isinstance(config, SftConfig)
    return find_contaminated_rows(recipe, config.data)


def see_start(trial: Trial) -> Any:
    """Why the run is refused; None if it is not."""
    try:
        trial.run()
    except RefusedError as error:
        return error.found
    return None


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
    base = done.folder.evaluations(done.record["artifacts"][0]["hash"]).root
    files = {path.name.rpartition("-")[0]: path.read_text() for path in base.glob("*.jsonl")}
    return files, [metric["name"] for metric in done.record["metrics"]]


def see_gate(trial: Trial) -> Any:
    """What the gate of the first stage finds, whatever comes of it."""
    with contextlib.suppress(RefusedError):
        trial.run()
    return json.loads((trial.read().folder / "run.json").read_text())["stages"][0]["gate"]


def watched_items(shift: int, policy: str) -> dict[str, list[ItemResult]]:
    """Items of every task that the monitors read, with every part that they look for; `shift` moves all of them."""
    turns = [float((index + shift) % 3 == 0) for index in range(90)]
    others = [1.0 - turn for turn in turns]
    parts = {
        **dict.fromkeys(("claimed", "refused", "format", "stopped"), turns),
        **dict.fromkeys(("conceded", "complied", "kept", "level"), others),
        "drawn_tokens": [10.0 + 3 * shift + index % 5 for index in range(90)],
    }
    items = {name: make_items(turns, parts, policy_hash=policy) for name in WATCHED}
    weighed = {"nats": [20.0 + shift + index % 7 for index in range(90)], "tokens": [10.0] * 90}
    sampled = {name: sampled_items(shift + place, policy) for place, name in enumerate(SAMPLED)}
    ordered = {name: ordered_items(place, policy) for place, name in enumerate(ORDERED)}
    return {**items, "documents": make_items(turns, weighed, policy_hash=policy), **sampled, **ordered}


def ordered_items(shift: int, policy: str) -> list[ItemResult]:
    """Thirty questions in both orders of two options, of which every third, or fewer, keeps its option."""
    items = []
    for number in range(30):
        for place in (0.0, 1.0):
            is_right = float(place == 0 or number % (3 + shift) == 0)
            parts = {"right_place": place, "right_option": 0.0, "chosen_option": 1.0 - is_right}
            name = f"rows:{number}:{place:g}"
            items.append(
                make_item(number, is_right, parts, item_id=name, cluster_id=f"rows:{number}", policy_hash=policy)
            )
    return items


def sampled_items(shift: int, policy: str) -> list[ItemResult]:
    """Three samples of each of 30 problems, with every part that monitors of samples and rewards look for."""
    return [
        make_item(
            index,
            float((index + shift) % 3 == 0),
            {
                "correct": float((index + 2 * shift) % 4 == 0),
                "kept": float((index + shift) % 5 == 0),
                "level": float((index * (shift + 3)) % 7),
                "confidence": (1 + index % 9) / 10,
                "sureness": (1 + index % 4) / 5,
                "drawn_nats": 20.0 + 3 * shift + index % 5,
                "drawn_tokens": 10.0 + 3 * shift + (index * index) % 11,
            },
            item_id=f"rows:{index // 3}",
            sample_index=index % 3,
            text=f"say {index % (shift + 2)} and {index % 3}",
            policy_hash=policy,
        )
        for index in range(90)
    ]


def see_readings(trial: Trial) -> Any:
    """What the monitors say of planted items, and which of them can be overridden."""
    recipe = trial.read()
    sides = [watched_items(shift, policy) for shift, policy in ((2, "own"), (1, "parent"), (0, "base"))]
    overrides = [name for name in list_override_names(recipe) if name.startswith("monitor:")]
    return [read_monitor(monitor, *sides).to_json() for monitor in recipe.monitors], overrides


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


def watch(kind: str, **changes: Any) -> dict[str, Leaf]:
    """Leaves of the one monitor of a baseline, seen by its readings."""
    name = {"auto": "AutoMonitors"}.get(kind, "".join(map(str.capitalize, kind.split("_"))) + "Monitor")
    common = {"level": 0.05, "on_alarm": "hold", **({} if kind == "auto" else {"name": "mine"})}
    return {
        f"{name}.{key}": Leaf(kind, f"monitors.0.{key}", value, see_readings)
        for key, value in {**common, **changes}.items()
    }


LEAVES: dict[str, Leaf] = {
    **watch(
        "sycophancy", task="sums", flipped="kept", conceded="claimed", allowed_rise=0.2, allowed_drop=0.2, at_most=0.3
    ),
    **watch("over_refusal", harmful="sums", harmless="pressure", refused="kept", complied="refused"),
    **watch("over_refusal", allowed_rise=0.2, allowed_compliance_rise=0.2, max_refused=0.3, max_complied=0.3),
    **watch("verbosity", tasks=["pressure"], allowed_growth=0.1, difficulty="level"),
    **watch("format", tasks=["pressure"], part="kept", allowed=0.1),
    **watch("forgetting", tasks=["documents"], allowed_nats=0.3, allowed_drop=0.3),
    **watch("forgetting", allowed_nats_from_base=0.3, allowed_drop_from_base=0.3),
    **watch("contamination", original="pressure", perturbed="pressure", allowed_gap=0.3),
    **watch("diversity", task="other_samples", kinds=["answers"], allowed_drop=0.1),
    **watch("collapse", task="other_samples", allowed_drop=0.1, allowed_drop_from_base=0.4),
    **watch("calibration", task="other_samples", confidence="sureness", allowed_rise=0.1, num_bins=3, sure_at=0.5),
    **watch("over_optimisation", proxy="samples/level", gold="samples/kept", allowed_drop=0.1),
    **watch("position_bias", task="other_orders"),
    **watch("reward_audit", task="other_samples", reward="level", correct="kept", components=["level"]),
    **watch("reward_audit", allowed_length_correlation=0.1, least_gain=0.1),
    **watch("auto"),
    "RecipeHead.monitors": Leaf("format", "monitors", ["auto"], see_readings),
    "RecipeHead.name": Leaf("plain", "name", "other", see_folders),
    "RecipeHead.seed": Leaf("plain", "seed", 18, see_policy),
    "RecipeHead.folder": Leaf("plain", "folder", "elsewhere", see_folders),
    "RecipeHead.loggers": Leaf("plain", "loggers", ["tensorboard"], see_folders),
    "RecipeHead.evaluate": Leaf("plain", "evaluate", [task()], see_items),
    "RecipeHead.decontaminate": Leaf("contaminated", "decontaminate", False, see_left_out),
    "DecontaminationSettings.ngram": Leaf("contaminated", "decontaminate.ngram", 13, see_left_out),
    "DecontaminationSettings.threshold": Leaf("contaminated", "decontaminate.threshold", 0.9, see_left_out),
    "DecontaminationSettings.min_words": Leaf("contaminated", "decontaminate.min_words", 6, see_left_out),
    "DecontaminationSettings.boilerplate_fraction": Leaf(
        "contaminated", "decontaminate.boilerplate_fraction", 1.0, see_left_out
    ),
    "DecontaminationSettings.near": Leaf("contaminated", "decontaminate.near", None, see_left_out),
    "DecontaminationSettings.kinds": Leaf("contaminated", "decontaminate.kinds", ["whole"], see_left_out),
    "DecontaminationSettings.max_fraction": Leaf("contaminated", "decontaminate.max_fraction", 0.4, see_start),
    "ModelSource.source": Leaf("plain", "model", "other", see_base),
    "ModelSource.revision": Leaf("plain", "model", {"source": "base", "revision": "main"}, see_refusal),
    "ChatSettings.template": Leaf("plain", "chat", {"template": "own.jinja"}, see_rows),
    "ChatSettings.date": Leaf("template", "chat.date", "1999-12-31", see_rows),
    "ChatSettings.arguments": Leaf("template", "chat.arguments", {"greeting": "hello"}, see_rows),
    "GenerationTask.name": Leaf("measured", "evaluate.0.name", "other", see_items),
    "GenerationTask.data": Leaf("measured", "evaluate.0.data", {"source": "rows.jsonl"}, see_items),
    "GenerationTask.development": Leaf("tracked", "evaluate.0.development", {"source": "turns.jsonl"}, see_lines),
    "GenerationTask.parts": Leaf("measured", "evaluate.0.parts", ["stopped"], see_items),
    "GenerationTask.scorer": Leaf("measured", "evaluate.0.scorer", "own.py:length", see_items),
    "GenerationTask.max_new_tokens": Leaf("measured", "evaluate.0.max_new_tokens", 8, see_items),
    "GenerationTask.temperature": Leaf("drawn", "evaluate.0.temperature", 1.0, see_items),
    "GenerationTask.top_p": Leaf("drawn", "evaluate.0.top_p", 0.1, see_items),
    "GenerationTask.top_k": Leaf("drawn", "evaluate.0.top_k", 1, see_items),
    "GenerationTask.min_p": Leaf("drawn", "evaluate.0.min_p", 0.9, see_items),
    "GenerationTask.stop": Leaf("sampled", "evaluate.0.stop", list("aeiou 0123456789"), see_items),
    "GenerationTask.num_samples": Leaf("sampled", "evaluate.0.num_samples", 2, see_items),
    "GenerationTask.pass_at": Leaf("sampled", "evaluate.0.pass_at", [2], see_items),
    "GenerationTask.cons_at": Leaf("sampled", "evaluate.0.cons_at", [3], see_items),
    "GenerationTask.benchmark": Leaf("published", "evaluate.0.benchmark", "gsm8k", see_items),
    "GenerationTask.form": Leaf("published", "evaluate.0.form", "text", see_items),
    "GenerationTask.shots": Leaf("shown", "evaluate.0.shots", 2, see_items),
    "GenerationTask.shots_from": Leaf("shown", "evaluate.0.shots_from", {"source": "held_out.jsonl"}, see_items),
    "GenerationTask.shots_by": Leaf("shown", "evaluate.0.shots_by", "half", see_items),
    "GenerationTask.shots_seed": Leaf("shown", "evaluate.0.shots_seed", None, see_items),
    "GenerationTask.best_at": Leaf("sampled", "evaluate.0.best_at", [2], see_items),
    "ChoiceTask.name": Leaf("choice", "evaluate.0.name", "other", see_items),
    "ChoiceTask.data": Leaf("choice", "evaluate.0.data", {"source": "choices.jsonl", "rows": 2}, see_items),
    "ChoiceTask.parts": Leaf("choice", "evaluate.0.parts", ["by_token"], see_items),
    "ChoiceTask.normalisation": Leaf("choice", "evaluate.0.normalisation", "sum", see_items),
    "ChoiceTask.options": Leaf("choice", "evaluate.0.options", "letters", see_items),
    "ChoiceTask.form": Leaf("choice", "evaluate.0.form", "text", see_items),
    "ChoiceTask.metric": Leaf("choice", "evaluate.0.metric", "mass", see_items),
    "HarnessTask.name": Leaf("harness", "evaluate.0.name", "other", see_items),
    "HarnessTask.task": Leaf("harness", "evaluate.0.task", "tiny_letters", see_items),
    "HarnessTask.shots": Leaf("harness", "evaluate.0.shots", 1, see_items),
    "HarnessTask.include": Leaf("harness", "evaluate.0.include", "more_tasks", see_items),
    "HarnessTask.limit": Leaf("harness", "evaluate.0.limit", 2, see_items),
    "HarnessTask.metric": Leaf("harness", "evaluate.0.metric", "acc_norm", see_items),
    "HarnessTask.form": Leaf("harness", "evaluate.0.form", "chat", see_items),
    "PerplexityTask.name": Leaf("perplexity", "evaluate.0.name", "other", see_items),
    "PerplexityTask.data": Leaf("perplexity", "evaluate.0.data", {"source": "turns.jsonl"}, see_items),
    "PerplexityTask.development": Leaf("repaired", "evaluate.0.development", {"source": "turns.jsonl"}, see_gate),
    "PerplexityTask.parts": Leaf("perplexity", "evaluate.0.parts", ["nats"], see_items),
    "GateRules.improve": own("gate.improve", [{"metric": "other"}], see_gate, "gated"),
    "GateRules.keep": own("gate.keep", [{"metric": "other", "margin": 0.1}], see_gate, "gated"),
    "GateRules.floor": own("gate.floor", [{"metric": "other", "at_least": 0.1}], see_gate, "gated"),
    "GateRules.ceiling": own("gate.ceiling", [{"metric": "held_out", "at_most": 0.95}], see_gate, "gated"),
    "GateRules.on_fail": own("gate.on_fail", ["interpolate"], see_gate, "gated"),
    "GateRules.max_attempts": own("gate.max_attempts", 1, see_gate, "repaired_twice"),
    "GateRules.replay": own("gate.replay", [{"source": "turns.jsonl"}], see_gate, "replayed"),
    "GateRules.level": own("gate.level", 0.01, see_gate, "gated"),
    "GateRules.looks": own("gate.looks", 2, see_gate, "gated"),
    "GateRules.power": own("gate.power", 0.6, see_gate, "undecided"),
    "ImproveRule.metric": own("gate.improve.0.metric", "other", see_gate, "improved"),
    "ImproveRule.by": own("gate.improve.0.by", 0.5, see_gate, "improved"),
    "KeepRule.metric": own("gate.keep.0.metric", "other", see_gate, "gated"),
    "KeepRule.margin": own("gate.keep.0.margin", 0.06, see_gate, "gated"),
    "KeepRule.baseline": Leaf("gated", "stages.0.gate.keep.0", {"metric": "held_out", "margin": 0.05}, see_gate),
    "KeepRule.cumulative_margin": own("gate.keep.0.cumulative_margin", 0.2, see_gate, "gated"),
    "FloorRule.metric": own("gate.floor.0.metric", "other", see_gate, "gated"),
    "FloorRule.at_least": own("gate.floor.0.at_least", 0.8, see_gate, "gated"),
    "CeilingRule.metric": own("gate.ceiling.0.metric", "other", see_gate, "improved"),
    "CeilingRule.at_most": own("gate.ceiling.0.at_most", 0.8, see_gate, "improved"),
    "StageKeys.name": own("name", "other", see_folders),
    "StageKeys.type": Leaf(
        "plain", "stages.0", {"name": "sft", "type": "own.py:run", "data": [{"source": "rows.jsonl"}]}, see_plan
    ),
    "StageKeys.parent": Leaf("two", "stages.1", {**BASELINES["two"]["stages"][1], "from": "base"}, see_lineage),
    "StageKeys.repeat": own("repeat", 2, see_plan),
    "StageKeys.gate": own("gate", {"keep": [KEEP]}, see_gate, "perplexity"),
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
    "SftConfig.keep_metric": own("keep_metric", "held_out/stopped", see_lines, "tracked"),
    "SftConfig.checkpoint_every_steps": own("checkpoint_every_steps", 3, see_callbacks, "saved"),
    "SftConfig.log_every_steps": own("log_every_steps", 3, see_lines, "seven"),
    "SftConfig.callbacks": own("callbacks", ["own.py:Watch"], see_callbacks),
    "GrpoConfig.algorithm": own("algorithm", "dr_grpo", see_policy, "rl"),
    "GrpoConfig.data": own("data", [{"source": "held_out.jsonl"}], see_policy, "rl"),
    "GrpoConfig.scorer": own("scorer", {"type": "length", "low": 2, "high": 3}, see_policy, "rl"),
    "GrpoConfig.steps": own("steps", 3, see_plan, "rl"),
    "GrpoConfig.problems_per_step": own("problems_per_step", 3, see_policy, "rl"),
    "GrpoConfig.group_size": own("group_size", 2, see_policy, "rl"),
    "GrpoConfig.max_new_tokens": own("max_new_tokens", 4, see_policy, "rl"),
    "GrpoConfig.temperature": own("temperature", 0.5, see_policy, "rl"),
    "GrpoConfig.stop": own("stop", list("aeiou 0123456789"), see_policy, "rl"),
    "GrpoConfig.minibatches": own("minibatches", 2, see_plan, "rl"),
    "GrpoConfig.epochs_per_step": own("epochs_per_step", 2, see_plan, "rl"),
    "GrpoConfig.baseline": own("baseline", "leave_one_out", see_policy, "rl"),
    "GrpoConfig.scale": own("scale", "none", see_policy, "rl"),
    "GrpoConfig.ratio": own("ratio", "sequence", see_policy, "rl_updates"),
    "GrpoConfig.clipping": own("clipping", "none", see_policy, "rl_updates"),
    "GrpoConfig.clip_low": own("clip_low", 1e-4, see_policy, "rl_updates"),
    "GrpoConfig.clip_high": own("clip_high", 1e-4, see_policy, "rl_updates"),
    "GrpoConfig.aggregation": own("aggregation", "sequence_sum", see_policy, "rl"),
    "GrpoConfig.kl": own("kl", "none", see_policy, "rl"),
    "GrpoConfig.kl_place": Leaf("rl_reverse", "stages.0.kl_place", "loss", see_policy),
    "GrpoConfig.kl_coefficient": own("kl_coefficient", 5.0, see_policy, "rl"),
    "GrpoConfig.importance_cap": own("importance_cap", None, see_policy, "rl"),
    "GrpoConfig.max_waves": own("max_waves", 1, see_policy, "rl_binary"),
    "GrpoConfig.overlong": own("overlong", "mask", see_policy, "rl"),
    "GrpoConfig.overlong_buffer": own("overlong_buffer", 3, see_policy, "rl"),
    "GrpoConfig.share_prompts": own("share_prompts", "off", see_policy, "rl"),
    "GrpoConfig.skip_settled": own("skip_settled", False, see_lines, "rl_settled"),
    "GrpoConfig.overlap_scoring": own("overlap_scoring", False, see_callbacks, "rl_watched"),
    "GrpoConfig.micro_batch_tokens": own("micro_batch_tokens", 20, see_policy, "rl"),
    "GrpoConfig.learning_rate": own("learning_rate", 2e-2, see_plan, "rl"),
    "GrpoConfig.schedule": own("schedule", "linear", see_plan, "rl"),
    "GrpoConfig.warmup_fraction": own("warmup_fraction", 0.6, see_plan, "rl"),
    "GrpoConfig.final_learning_rate_fraction": own("final_learning_rate_fraction", 0.5, see_plan, "rl_linear"),
    "GrpoConfig.weight_decay": own("weight_decay", 0.5, see_policy, "rl"),
    "GrpoConfig.beta1": own("beta1", 0.5, see_policy, "rl"),
    "GrpoConfig.beta2": own("beta2", 0.5, see_policy, "rl"),
    "GrpoConfig.epsilon": own("epsilon", 0.1, see_policy, "rl"),
    "GrpoConfig.max_grad_norm": own("max_grad_norm", 1e-3, see_policy, "rl"),
    "GrpoConfig.adapter": own("adapter", LORA, see_policy, "rl"),
    "GrpoConfig.adapter_start": Leaf("rl_adapted", "stages.1.adapter_start", "stack", see_policy),
    "GrpoConfig.dtype": own("dtype", "bfloat16", see_policy, "rl"),
    "GrpoConfig.packing": own("packing", "off", see_policy, "rl"),
    "GrpoConfig.checkpoint_every_steps": own("checkpoint_every_steps", 3, see_callbacks, "rl_saved"),
    "GrpoConfig.log_every_steps": own("log_every_steps", 3, see_lines, "rl_saved"),
    "GrpoConfig.callbacks": own("callbacks", ["own.py:Watch"], see_callbacks, "rl"),
    "LoraSettings.rank": own("adapter.rank", 2, see_policy, "adapter"),
    "LoraSettings.alpha": own("adapter.alpha", 32.0, see_policy, "adapter"),
    "LoraSettings.dropout": own("adapter.dropout", 0.5, see_policy, "adapter"),
    "LoraSettings.targets": own("adapter.targets", ["q_proj"], see_policy, "adapter"),
    "LoraSettings.init": own("adapter.init", "gaussian", see_policy, "adapter"),
}

_ONE_TYPE = "says which monitor it is: within the class it has one value"
WITHOUT_EFFECT: dict[str, str] = {
    **{f"{kind.__name__}.type": _ONE_TYPE for kind in MONITORS.values()},
    "RecipeHead.model": "always there; what it holds is ModelSource's",
    "RecipeHead.chat": "always there; what it holds is ChatSettings'",
    "GenerationTask.type": "says which class reads the task: within the class it has one value",
    "ChoiceTask.type": "says which class reads the task: within the class it has one value",
    "ChoiceTask.benchmark": "read as of any task: GenerationTask's is looked at",
    "PerplexityTask.benchmark": "read as of any task: GenerationTask's is looked at",
    "ChoiceTask.shots": "read as of GenerationTask, which is looked at",
    "ChoiceTask.shots_from": "read as of GenerationTask, which is looked at",
    "ChoiceTask.shots_by": "read as of GenerationTask, which is looked at",
    "ChoiceTask.shots_seed": "read as of GenerationTask, which is looked at",
    "ChoiceTask.development": "read as of any task: GenerationTask's and PerplexityTask's are looked at",
    "PerplexityTask.type": "says which class reads the task: within the class it has one value",
    "HarnessTask.type": "says which class reads the task: within the class it has one value",
    "SftConfig.type": "says which class reads the stage: within the class it has one value",
    "GrpoConfig.type": "says which class reads the stage: within the class it has one value",
    "GrpoConfig.activation_checkpointing": "changes memory alone: tests/pipeline/test_grpo.py looks at the model",
}
"""Fields that are no leaf of their own, and why."""
