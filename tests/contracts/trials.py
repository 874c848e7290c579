"""A recipe that is tried out, what can be seen of it, and a change of one of its keys."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from posttrain.core.errors import PosttrainError, RefusedError
from posttrain.core.progress import SilentProgress
from posttrain.core.run_folder import RunFolder
from posttrain.pipeline.estimates import estimate_memory
from posttrain.pipeline.plan import build_plan
from posttrain.pipeline.policies import find_base, open_renderer
from posttrain.pipeline.previews import preview_rows
from posttrain.pipeline.recipe import Recipe, read_recipe
from posttrain.pipeline.run import run_recipe
from posttrain.pipeline.step_works import build_sft_work
from posttrain.pipeline.wiring import find_contaminated_rows, load_stage_data
from posttrain.stages.audit import AuditLook, LookJudge
from posttrain.stages.grpo import GrpoConfig
from posttrain.stages.sft import SftConfig
from posttrain.training.distributed import Ranks
from tests.contracts.recipe_baselines import BASELINES
from tests.pipeline.tiny_runs import Finished, Workshop


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
        recipe = self.read()
        # A random policy that samples never stops by itself, which preflight refuses.
        override = ["length_caps"] if any(entry.type == "grpo" for entry in recipe.stages) else []
        return Finished(recipe, RunFolder(run_recipe(recipe, override=override)))


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
        work = build_sft_work(config, data, Ranks(), 1)
        return estimate_memory(base, config, work, Ranks()).activations


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


def see_audit(trial: Trial) -> Any:
    """What an audit's settings make of looks at which the reward rises and the audit falls by 0.4, across problems."""
    config = trial.read().stages[0].config
    assert isinstance(config, GrpoConfig) and config.audit is not None
    judge = LookJudge(config.audit, 40)
    for step in range(1, 41):
        noise = [0.01 * (number % 7) for number in range(8)]
        rewards = tuple((step / 10 + one,) * 2 for one in noise)
        judged = tuple((1 - step / 50 + one,) * 2 for one in noise)
        judge.add(AuditLook(step, "p", tuple(f"{step}-{number}" for number in range(8)), rewards, judged))
    return judge.alarm


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
