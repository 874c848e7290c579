"""Sound recipes raise no alarm: over models, adapters, precisions, templates and rows, and those of the repository."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain.core.progress import SilentProgress
from posttrain.core.records import Artifact
from posttrain.models.artifacts import save_tokenizer
from posttrain.models.making import make_model
from posttrain.pipeline.plan import hash_base
from posttrain.pipeline.policies import find_base, open_renderer
from posttrain.pipeline.preflight.checks import Preflight
from posttrain.pipeline.preflight.override_names import Overrides
from posttrain.pipeline.preflight.waiting import find_progress
from posttrain.pipeline.recipe import Recipe, read_recipe
from posttrain.pipeline.rounds import list_rounds
from posttrain.training.distributed import Ranks
from tests.models.tiny_models import ARCHITECTURES, make_tokenizer
from tests.pipeline.tiny_runs import Workshop, make_base, sft, task

pytestmark = pytest.mark.invariants
REPOSITORY = Path(__file__).resolve().parents[2]
LORA = {"rank": 4}
CHATML = (
    "{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}{% if m.tool_calls %}{{ m.tool_calls | tojson }}"
    "{% endif %}<|endoftext|>\n{% endfor %}{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
FORGETFUL = (
    "{% for m in messages %}{{ m.role }}: {% if m.role == 'assistant' and not loop.last %}(said something)"
    "{% else %}{{ m.content }}{% endif %}{% if m.role == 'assistant' %}<|endoftext|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Name a bird."},
    {"role": "assistant", "content": "jay"},
    {"role": "user", "content": "Another, please!"},
    {"role": "assistant", "content": "kiwi"},
]
TOOL = {
    "type": "function",
    "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object", "properties": {}}},
}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
CALLING = [
    {"role": "user", "content": "1 + 1?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "name": "add", "content": "2"},
    {"role": "assistant", "content": "It is 2."},
]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """A workshop with other bases, templates and rows beside its own."""
    root = tmp_path_factory.mktemp("clean")
    workshop = Workshop(root / "bench", make_base(root / "base"))
    folder = workshop.folder
    for name in ("qwen2", "qwen3", "gemma2"):
        settings = {**ARCHITECTURES[name], "max_position_embeddings": 256, "initializer_range": 0.1}
        make_model(settings, make_tokenizer(), 5).save_pretrained(folder / name)
        save_tokenizer(make_tokenizer(), folder / name, None)
    (folder / "chatml.jinja").write_text(CHATML)
    (folder / "forgetful.jinja").write_text(FORGETFUL)

    def write(name: str, rows: list[dict[str, Any]]) -> None:
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    write("talks.jsonl", [{"messages": TALK[: 3 if n % 2 else 5]} for n in range(8)])
    write("calls.jsonl", [{"messages": CALLING, "tools": [TOOL]} for _ in range(6)])
    write("documents.jsonl", [{"text": f"the ant met the bee {n} times, the end. " * 4} for n in range(6)])
    write("pairs.jsonl", [{"prompt": f"{n} + {n}?", "completion": f"{2 * n}"} for n in range(9)])
    return workshop


def of(name: str) -> list[dict[str, Any]]:
    return [{"source": f"{name}.jsonl"}]


def two(start: str, **changes: Any) -> list[dict[str, Any]]:
    """A stage that begins an adapter, and one that goes on from it."""
    second = {"name": "more", "adapter": LORA, "adapter_start": start, **changes}
    return [sft(adapter=LORA, **{k: v for k, v in changes.items() if k != "adapter"}), sft(**second)]


CLEAN: dict[str, Callable[[], dict[str, Any]]] = {
    "full weights": lambda: {"stages": [sft()]},
    "full weights in bf16": lambda: {"stages": [sft(dtype="bfloat16")]},
    "another seed": lambda: {"stages": [sft()], "seed": 5},
    "a new adapter": lambda: {"stages": [sft(adapter=LORA)]},
    "an adapter with dropout and a gaussian start": lambda: {
        "stages": [sft(adapter={**LORA, "dropout": 0.3, "init": "gaussian"}, dtype="bfloat16")]
    },
    "an adapter on some layers": lambda: {"stages": [sft(adapter={**LORA, "targets": ["q_proj", "down_proj"]})]},
    "an adapter continued": lambda: {"stages": two("continue")},
    "an adapter continued in bf16": lambda: {"stages": two("continue", dtype="bfloat16")},
    "an adapter stacked": lambda: {"stages": two("stack")},
    "an adapter merged in bf16, and a new one": lambda: {"stages": two("merge", dtype="bfloat16")},
    "an adapter merged, and full weights": lambda: {"stages": two("merge", adapter=None)},
    "raw documents, and then conversations": lambda: {
        "stages": [sft(name="read", mode="full_text", data=of("documents"), max_length=64), sft()]
    },
    "documents beside conversations": lambda: {"stages": [sft(data=[*of("rows"), *of("documents")])]},
    "padded rows": lambda: {"stages": [sft(packing="off")]},
    "a row a micro-batch, checkpointing": lambda: {
        "stages": [sft(micro_batch_tokens=1, activation_checkpointing="on", repeat=2)]
    },
    "several turns": lambda: {"stages": [sft(data=of("talks"))]},
    "the last turn alone": lambda: {"stages": [sft(data=of("talks"), train_on="last_assistant")]},
    "every token": lambda: {"stages": [sft(data=of("talks"), train_on="all")]},
    "tools, in a template of its own": lambda: {
        "stages": [sft(data=of("calls"))], "chat": {"template": "chatml.jinja"},
    },
    "a template that rewrites history": lambda: {
        "stages": [sft(data=of("talks"))], "chat": {"template": "forgetful.jinja"},
    },
    "the tokenizer's own template": lambda: {"stages": [sft(data=of("pairs"))], "chat": {"template": "auto"}},
    "oldest turns cut": lambda: {
        "stages": [sft(data=of("talks"), max_length=90, truncation="cut_oldest_turn", max_affected_fraction=0.0)]
    },
    "sources mixed by proportion, with validation": lambda: {
        "stages": [
            sft(
                data=[{**of("rows")[0], "proportion": 3.0}, {**of("pairs")[0], "proportion": 1.0}],
                validation=of("talks"),
                ema_decay=0.5,
            )
        ]
    },
    "no steps": lambda: {"stages": [sft(steps=0)]},
    "qwen2": lambda: {"stages": two("stack"), "model": "qwen2"},
    "qwen3 in bf16": lambda: {"stages": [sft(dtype="bfloat16")], "model": "qwen3"},
    "gemma2": lambda: {"stages": [sft()], "model": "gemma2"},
    "the lab's base": lambda: {
        "stages": [sft(data=[{"source": "lab:conversations", "rows": 64}])], "model": "lab:base@1",
    },
    "the lab's base in bf16, with an adapter": lambda: {
        "stages": [sft(data=[{"source": "lab:expert", "rows": 64}], dtype="bfloat16", adapter=LORA)],
        "model": "lab:base@1",
    },
    "the lab's untrained beginning": lambda: {
        "stages": [sft(data=[{"source": "lab:conversations", "rows": 64}])], "model": "lab:seedling",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", CLEAN)
def test_a_sound_recipe_passes_every_check(bench: Workshop, name: str) -> None:
    values = CLEAN[name]()
    stages = values.pop("stages")
    measured = [task(max_new_tokens=16), task(name="short", scorer={"type": "length", "low": 0, "high": 9})]
    done = bench.run(*stages, into="run-" + name.replace(" ", "-").replace(",", ""), evaluate=measured, **values)
    assert set(done.statuses) == {"finished"}
    found = {(f["stage"], f["name"]): f for f in done.record["preflight"]}
    assert {f["status"] for f in found.values()} == {"passed"}, found
    num_rounds = sum(stage.get("repeat", 1) for stage in stages)
    assert len(found) == 2 * len(measured) + 4 * len(stages) + num_rounds


def check_only(recipe: Recipe) -> dict[tuple[str, str], dict[str, Any]]:
    """Run the checks at the start of a recipe, and nothing else."""
    base = find_base(recipe)
    findings: list[dict[str, Any]] = []
    with open_renderer(recipe, base) as renderer:
        preflight = Preflight(recipe, base, renderer, Ranks(), Overrides(), SilentProgress(), findings)
        rounds = list_rounds(recipe)
        entries: list[dict[str, Any]] = [{"key": None} for _ in rounds]
        policy = Artifact("policy", "", hash_base(base), str(base))
        preflight.check_start(find_progress(recipe, rounds, entries, policy, renderer))
    return {(finding["stage"], finding["name"]): finding for finding in findings}


NEEDS_THE_HUB = {"gsm8k_sft.yaml", "gsm8k_grpo.yaml", "ultrafeedback_dpo.yaml", "hh_reward_model.yaml"}


@pytest.mark.parametrize("name", sorted({p.name for p in (REPOSITORY / "recipes").glob("*.yaml")} - NEEDS_THE_HUB))
def test_the_recipes_of_the_repository_pass(name: str, tmp_path: Path) -> None:
    found = check_only(read_recipe(REPOSITORY / "recipes" / name, folder=tmp_path / "run"))
    assert {finding["status"] for finding in found.values()} <= {"passed", "skipped"}
    # The lab's questions name what is right in a column: there is no answer of their own to measure or to score.
    assert {key[1] for key, finding in found.items() if finding["status"] == "skipped"} <= {"length_caps", "scorer"}


def test_the_recipe_for_gsm8k_passes_on_its_real_rows(real_data: Path, tmp_path: Path) -> None:
    rows = real_data / "math" / "gsm8k_test.jsonl"  # looked at, not trained on
    columns = {"prompt": "question", "completion": "answer"}
    data = json.dumps([{"source": str(rows), "rows": 400, "columns": columns}])
    changes = ["model=lab:base@1", f"sft.data={data}", f"sft.validation={data}", "sft.truncation=drop"]
    found = check_only(read_recipe(REPOSITORY / "recipes" / "gsm8k_sft.yaml", changes, folder=tmp_path / "run"))
    assert {finding["status"] for finding in found.values()} == {"passed"}


LAB_STAGE = """\
from posttrain.core.config import Config as Base
from posttrain.core.sampling import SamplingSettings
from posttrain.data.sources import DataSource
from posttrain.stages.rollouts import RolloutSettings


class Config(Base):
    max_new_tokens: int = 96

    def describe_rollouts(self):
        return RolloutSettings(
            problems=DataSource(source="lab:arithmetic"),
            scorer="lab",
            sampling=SamplingSettings(max_new_tokens=self.max_new_tokens, temperature=1.0, num_samples=8),
        )


def rl(config, inputs, parts, context):
    return {"policy": parts.publish(parts.policy)}
"""


def test_a_taught_lab_policy_has_groups_to_learn_from_and_an_untaught_one_has_none(bench: Workshop) -> None:
    """The base knows no form and never stops: all is cut and nothing is right. A little teaching mends both."""
    (bench.folder / "lab_rl.py").write_text(LAB_STAGE)
    rl = {"name": "rl", "type": "lab_rl.py:rl"}
    untaught = bench.run(rl, into="untaught", model="lab:base@1", override=["rollouts", "length_caps"])
    assert {f["name"]: f["status"] for f in untaught.record["preflight"]} == {
        "rollouts": "overridden", "length_caps": "overridden",
    }  # fmt: skip
    teach = sft(
        data=[{"source": "lab:expert", "rows": 4000}], steps=120, batch_size=32, learning_rate=1.5e-3,
        dtype="bfloat16", checkpoint_every_steps=1000,
    )  # fmt: skip
    taught = bench.run(teach, rl, into="taught", model="lab:base@1")
    found = {f["name"]: f for f in taught.record["preflight"] if f["stage"] == "rl"}
    assert {f["status"] for f in found.values()} == {"passed"}
    assert found["rollouts"]["figures"]["informative_fraction"] >= 0.1
