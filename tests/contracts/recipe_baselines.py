"""Recipes in which one key or another matters, and a folder with everything that they name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tests.contracts.reward_baselines import REWARD_BASELINES
from tests.pipeline.best_of_n_runs import study, write_study_files
from tests.pipeline.preference_runs import dpo, make_pairs
from tests.pipeline.reward_runs import write_reward_rows
from tests.pipeline.tiny_runs import Workshop, make_base, make_rows, recipe_values, sft, task

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


def watched_length(completions, **columns):
    Watch.on_step(None, len(completions), None, None)
    return length(completions)


def brevity(completions, **columns):
    return [-value for value in length(completions)]


def odd(completions, **columns):
    return [float(sum(map(ord, text)) % 2) for text in completions]
"""
HARNESS_TASK = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{prompt}}}}{more}"
doc_to_target: answer
doc_to_choice: choices
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
"""
LORA = {"rank": 4, "alpha": 8.0}


def stage(**changes: Any) -> dict[str, Any]:
    """A stage of three steps."""
    return sft(steps=changes.pop("steps", 3), **changes)


def long_rows(**changes: Any) -> dict[str, Any]:
    """A recipe in which some rows are too long."""
    values = {"data": [{"source": "long.jsonl"}], "max_length": 60, "truncation": "drop", "max_affected_fraction": 1.0}
    return recipe_values(stage(**{**values, **changes}))


def rl(**changes: Any) -> dict[str, Any]:
    """A recipe of one stage that samples, rewarded for length."""
    values = {
        "name": "rl",
        "type": "grpo",
        "data": [{"source": "rows.jsonl"}],
        "scorer": "own.py:length",
        "steps": 2,
        "problems_per_step": 2,
        "group_size": 3,
        "max_new_tokens": 6,
        "learning_rate": 1e-2,
        "dtype": "float32",
        "log_every_steps": 1,
    }
    return recipe_values({**values, **changes})


def kto(**changes: Any) -> dict[str, Any]:
    """A stage of four steps on labelled completions."""
    values = {
        "name": "kto",
        "type": "kto",
        "data": [{"source": "labelled.jsonl"}],
        "steps": None if "epochs" in changes else 4,
        "batch_size": 3,
        "beta": 0.5,
        "learning_rate": 1e-2,
        "dtype": "float32",
        "log_every_steps": 1,
        **changes,
    }
    return {key: value for key, value in values.items() if value is not None or key == "logps_drop"}


def pairs(**changes: Any) -> dict[str, Any]:
    """A recipe of one stage that compares pairs."""
    return recipe_values(dpo(**{"steps": 3, **changes}))


VALIDATED = {"validation": [{"source": "held_pairs.jsonl"}], "validate_every_steps": 1}
AUDIT = {
    "scorer": {
        "type": "weighted",
        "components": [
            {"name": "brief", "scorer": "own.py:brevity", "weight": 2.0},
            {"name": "long", "scorer": "own.py:length"},
        ],
    },
    "level": 0.2,
}
SAMPLED = ("samples", "other_samples")
ORDERED = ("orders", "other_orders")
WATCHED = ("pressure", "hazards", "look_alikes", "sums", "documents", "rewritten", *SAMPLED, *ORDERED)
KEEP = {"metric": "held_out", "margin": 0.05, "baseline": "base", "cumulative_margin": 0.1}


def choice(**changes: Any) -> dict[str, Any]:
    """A multiple-choice task."""
    return {"name": "held_out", "type": "choice", "data": {"source": "choices.jsonl"}, **changes}


def perplexity(**changes: Any) -> dict[str, Any]:
    """A task that weighs the replies of five rows."""
    own = {"data": {"source": "held_out.jsonl"}, "development": {"source": "rows.jsonl", "rows": 5}}
    return {"name": "held_out", "type": "perplexity", **own, **changes}


def harness(**changes: Any) -> dict[str, Any]:
    """A task of lm-evaluation-harness, which lies beside the recipe."""
    return {"name": "held_out", "type": "harness", "task": "tiny_animals", "include": "harness_tasks", **changes}


def gated(gate: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A recipe with a gate; its other task has other rows."""
    tasks = [
        perplexity(),
        perplexity(name="other", data={"source": "rows.jsonl"}, development={"source": "held_out.jsonl"}),
    ]
    return recipe_values(stage(gate=gate, **changes), evaluate=tasks)


def watched(**monitor: Any) -> dict[str, Any]:
    """A recipe with one monitor, and tasks of every name that monitors of it read (`watched_items`)."""
    return recipe_values(stage(), evaluate=[task(name=name) for name in WATCHED], monitors=[monitor])


SHARED = "read all of this with care and say one word"
LONG = (
    "amber boats carry dried eels from green harbours in June keeping lamps lit many nights over quiet rough seas today"
)
STORY = "Ida has 12 red hens and sells their eggs to the baker of her town for 3 coins each"
ITEMS = ["how deep is the sea", LONG, STORY, *(f"{SHARED} {end}" for end in ("apples", "pears", "plums"))]
HOLDING = [
    "how deep is the sea",
    " ".join(LONG.split()[:12]),
    STORY.replace("red", "brown").replace("the baker of her town", "the one baker of her small town"),
    SHARED,
]
"""Questions that hold an item each: word for word, by n-grams, nearly, and by what several items share alone."""

BASELINES: dict[str, dict[str, Any]] = {
    **REWARD_BASELINES,
    "study": recipe_values(study()),
    "study_falling": recipe_values(study(gold="texts.py:near_zero", level=0.2)),
    "plain": recipe_values(stage()),
    "epochs": recipe_values(stage(steps=None, epochs=1.0)),
    "seven": recipe_values(stage(steps=7)),
    "saved": recipe_values(stage(callbacks=["own.py:Saves"])),
    "measured": recipe_values(stage(steps=1), evaluate=[task()]),
    "drawn": recipe_values(stage(steps=1), evaluate=[task(temperature=2.0)]),
    "validated": recipe_values(stage(validation=[{"source": "held_out.jsonl"}], learning_rate=5.0)),
    "tracked": recipe_values(
        stage(keep="best_metric", keep_metric="held_out", validate_every_steps=1),
        evaluate=[task(temperature=2.0, scorer="own.py:length", development={"source": "rows.jsonl"})],
    ),
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
    "contaminated": recipe_values(
        stage(data=[{"source": "holding.jsonl"}], steps=1),
        evaluate=[{"name": "held_out", "data": {"source": "items.jsonl"}, "max_new_tokens": 4}],
        decontaminate={"max_fraction": 1.0},
    ),
    "lab": recipe_values(stage(data=[{"source": "lab:conversations", "rows": 10}])),
    "bad": recipe_values(stage(data=[{"source": "bad.jsonl", "max_bad_fraction": 0.5}])),
    "long": long_rows(),
    "template": recipe_values(stage(), chat={"template": "own.jinja"}),
    "sampled": recipe_values(stage(steps=1), evaluate=[task(temperature=1.0, num_samples=3, max_new_tokens=9)]),
    "selected": recipe_values(
        stage(steps=1),
        evaluate=[task(temperature=2.0, max_new_tokens=9, select={"n": 2, "scorer": "own.py:length"})],
    ),
    "published": recipe_values(stage(steps=1), evaluate=[task(data={"source": "published.jsonl"}, max_new_tokens=40)]),
    "shown": recipe_values(
        stage(steps=1),
        evaluate=[task(data={"source": "published.jsonl"}, shots=1, shots_from={"source": "published.jsonl"})],
    ),
    "choice": recipe_values(stage(steps=1), evaluate=[choice()]),
    "harness": recipe_values(stage(steps=1), evaluate=[harness()]),
    "perplexity": recipe_values(stage(steps=1), evaluate=[perplexity()]),
    "rl": rl(),
    "rl_routed": rl(data=[{"source": "rows.jsonl", "scorer": "own.py:length"}, {"source": "held_out.jsonl"}]),
    "rl_stopping": rl(stop=list("aeiou 0123456789")),
    "rl_updates": rl(minibatches=2, epochs_per_step=2),
    "rl_linear": rl(schedule="linear", steps=4),
    "rl_binary": rl(scorer="own.py:odd", max_waves=4, algorithm="dapo"),
    "rl_reverse": rl(kl="reverse_kl", kl_place="reward", kl_coefficient=0.5),
    "rl_settled": rl(scorer="own.py:odd", algorithm="dapo", steps=4, group_size=2),
    "rl_watched": rl(scorer="own.py:watched_length", group_size=9),
    "rl_curriculum": rl(curriculum={"decay": 1.0}, solved_from=6.0, steps=6),
    "rl_adapted": recipe_values(
        stage(adapter=LORA, adapter_start="new"),
        {**rl()["stages"][0], "adapter": LORA, "adapter_start": "continue"},
    ),
    "rl_audited": rl(steps=6, problems_per_step=8, group_size=6, audit=AUDIT),
    "rl_saved": rl(callbacks=["own.py:Saves"], steps=4),
    "kto": recipe_values(kto()),
    "bco": recipe_values(kto(loss="bco")),
    "kto_pairs": recipe_values(kto(data=[{"source": "compared.jsonl"}])),
    "kto_long": recipe_values(
        kto(data=[{"source": "long_labelled.jsonl"}], max_length=60, truncation="drop", max_affected_fraction=1.0)
    ),
    "kto_refused": recipe_values(
        kto(data=[{"source": "long_labelled.jsonl"}], max_length=60, max_affected_fraction=1.0)
    ),
    "kto_epochs": recipe_values(kto(epochs=1.0)),
    "kto_validated": recipe_values(kto(validation=[{"source": "compared.jsonl"}], learning_rate=0.3)),
    "kto_falling": recipe_values(kto(desirable_weight=0.0, undesirable_weight=9.0, learning_rate=0.3)),
    "kto_alarmed": recipe_values(kto(desirable_weight=0.0, undesirable_weight=9.0, learning_rate=0.3, logps_drop=1e-6)),
    "kto_adapted": recipe_values(stage(adapter=LORA, adapter_start="new"), kto(adapter=LORA, adapter_start="continue")),
    "kto_saved": recipe_values(kto(callbacks=["own.py:Saves"])),
    "pairs": pairs(),
    "pairs_epochs": pairs(steps=None, epochs=1.0),
    "pairs_seven": pairs(steps=7),
    "pairs_linear": pairs(schedule="linear", steps=4),
    "pairs_smoothed": pairs(label_smoothing=0.1),
    "pairs_validated": pairs(**VALIDATED, learning_rate=5.0, steps=4),
    "pairs_saved": pairs(callbacks=["own.py:Saves"], steps=4),
    "pairs_long": pairs(
        data=[{"source": "long_pairs.jsonl"}], max_length=50, truncation="drop", max_affected_fraction=1.0
    ),
    "pairs_soaring": pairs(learning_rate=0.3, steps=12, logps_drop=0.1),
    "pairs_adapted": recipe_values(
        stage(adapter=LORA, adapter_start="new"), dpo(adapter=LORA, adapter_start="continue")
    ),
    "gated": gated({"keep": [KEEP], "floor": [{"metric": "held_out", "at_least": 0.9}]}),
    "improved": gated({"improve": [{"metric": "held_out"}], "ceiling": [{"metric": "held_out", "at_most": 0.9}]}),
    "undecided": gated({"keep": [{**KEEP, "margin": 0.001}]}, learning_rate=1e-6),
    "repaired": gated({"keep": [KEEP], "floor": [{"metric": "held_out", "at_least": 0.9}], "on_fail": ["interpolate"]}),
    "repaired_twice": gated(
        {"floor": [{"metric": "held_out", "at_least": 0.9}], "on_fail": ["interpolate", "smaller_learning_rate"]}
    ),
    "replayed": gated(
        {
            "floor": [{"metric": "held_out", "at_least": 0.9}],
            "on_fail": ["replay"],
            "replay": [{"source": "rows.jsonl"}],
        }
    ),
    "sycophancy": watched(type="sycophancy", task="pressure", at_most=0.2),
    "over_refusal": watched(
        type="over_refusal", harmful="hazards", harmless="look_alikes", max_refused=0.2, max_complied=0.2
    ),
    "verbosity": watched(type="verbosity", tasks=["sums"]),
    "format": watched(type="format", tasks=["sums"]),
    "forgetting": watched(type="forgetting", tasks=["documents", "sums"]),
    "contamination": watched(type="contamination", original="sums", perturbed="rewritten"),
    "diversity": watched(type="diversity", task="samples"),
    "collapse": watched(type="collapse", task="samples", allowed_drop_from_base=0.5),
    "calibration": watched(type="calibration", task="samples"),
    "over_optimisation": watched(type="over_optimisation", proxy="samples/correct", gold="samples"),
    "reward_audit": watched(type="reward_audit", task="samples"),
    "position_bias": watched(type="position_bias", task="orders"),
    "auto": watched(type="auto"),
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
    write("items.jsonl", [{"prompt": text, "answer": "zebra"} for text in ITEMS])
    write("holding.jsonl", [{"prompt": text, "completion": "a"} for text in [*HOLDING, "b", "c", "d"]])
    said = [{"prompt": f"{n}?", "completion": "abcdefgh"[n:], "label": n % 3 > 0} for n in range(7)]
    write("labelled.jsonl", said)
    turns_before = [{"role": r, "content": "x " * 8} for r in ["user", "assistant"] * 2]
    long = {"prompt": [*turns_before, {"role": "user", "content": "y?"}], "completion": "z", "label": True}
    write("long_labelled.jsonl", [*said, long])
    write("compared.jsonl", [{"prompt": f"{n}?", "chosen": f"it is {n}", "rejected": "no" * (n + 1)} for n in range(4)])
    write("choices.jsonl", [{"prompt": f"{n}?", "choices": ["a", "bcdefgh", "ijk"], "answer": n % 3} for n in range(6)])
    both = {"prompt": "{n}?", "question": "what is {n}?", "answer": "it is {n}.\n#### {n}"}
    write(
        "published.jsonl",
        [{name: text.format(n=n) for name, text in both.items()} | {"half": n // 3} for n in range(6)],
    )
    for place, name, more in (
        ("harness_tasks", "tiny_animals", ""),
        ("harness_tasks", "tiny_letters", " ="),
        ("more_tasks", "tiny_animals", "?"),
    ):
        (folder / place).mkdir(exist_ok=True)
        text = HARNESS_TASK.format(name=name, file=folder / "choices.jsonl", more=more)
        (folder / place / f"{name}.yaml").write_text(text)
    write_reward_rows(folder)
    write_study_files(folder)
    make_pairs(folder / "pairs.jsonl", 10)
    make_pairs(folder / "held_pairs.jsonl", 5, start=40)
    more = {"prompt": [*turns, {"role": "user", "content": "e" * 30}], "chosen": "f", "rejected": "g"}
    make_pairs(folder / "long_pairs.jsonl", 6).open("a").write(json.dumps(more) + "\n")
    make_rows(folder / "bad.jsonl", 5).open("a").write("no json\n")
    make_rows(folder / "long.jsonl", 6).open("a").write(json.dumps({"prompt": "x " * 8, "completion": "y" * 50}) + "\n")
    return workshop
