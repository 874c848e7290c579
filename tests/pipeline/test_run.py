"""A run from end to end on a tiny model: what it writes, what it does not do twice, and what makes it do it again."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from posttrain.core.errors import RecipeError
from posttrain.models.loading import load_policy
from posttrain.models.manifest import find_differences, load_manifest
from posttrain.pipeline.plan import build_plan
from tests.models.tiny_models import logits_of
from tests.pipeline.tiny_runs import Notes, Workshop, make_rows, sft, task

SCHEMA = json.loads(resources.files("posttrain.pipeline").joinpath("run_schema.json").read_text(encoding="utf-8"))


def check_record(record: dict[str, Any]) -> None:
    """Check run.json against its schema, and the lineage: a round starts from what its parent made."""
    assert [error.message for error in jsonschema.Draft202012Validator(SCHEMA).iter_errors(record)] == []
    made = {artifact["hash"]: artifact for artifact in record["artifacts"]}
    for stage in record["stages"]:
        if stage["outputs"]:
            assert stage["inputs"]["policy"] in made
            assert made[stage["outputs"]["policy"]]["parents"] != []


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_leaves_a_valid_record_a_balanced_ledger_metrics_items_rows_and_a_report(workshop: Workshop) -> None:
    (workshop.folder / "rows.jsonl").open("a").write("no json\n")
    source = {"source": "rows.jsonl", "max_bad_fraction": 0.2}
    done = workshop.run(sft(data=[source], validation=[{"source": "held_out.jsonl"}]), evaluate=[task()])
    record = done.record
    check_record(record)
    assert record["status"] == "finished" and done.statuses == ["finished"]
    assert record["report"] == "report.html" and "demo" in done.folder.report.read_text()

    ledger = record["stages"][0]["ledger"]
    assert ledger == json.loads(done.stage().ledger.read_text())
    assert (ledger["rows_in"], ledger["rows_trained"], ledger["rows_dropped"]) == (11, 10, 1)

    lines = done.lines()
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    assert [line["step"] for line in lines if "validation/loss" in line] == [0, 4]
    assert lines[-1]["validation/loss"] < lines[0]["validation/loss"]
    assert record["stages"][0]["tokens"] == max(line.get("num_tokens", 0) for line in lines)

    items = read_lines(done.items("held_out", "sft"))
    assert [item["prompt"][-1]["role"] for item in items] == ["user"] * 5
    assert {item["policy_hash"] for item in items} == set(done.hashes)
    assert [item["reference"] for item in items] == ["ant", "bee", "cow", "dog", "elk"]
    base_items = read_lines(done.items("held_out", "base"))
    assert {item["policy_hash"] for item in base_items} == {record["artifacts"][0]["hash"]}
    assert [(m["stage"], m["name"], m["n"]) for m in record["metrics"]] == [
        (stage, name, 5) for stage in ("base", "sft") for name in ("exact_match", "stop_rate")
    ]
    rows = json.loads(done.stage().preview.read_text())
    assert len(rows) == 8
    trained = ["".join(token[0] for token in row["tokens"] if token[3]) for row in rows]
    assert trained[:2] == ["ant<|endoftext|>", "bee<|endoftext|>"]


def test_the_artifact_loads_in_plain_transformers_with_the_same_logits_and_answers(workshop: Workshop) -> None:
    done = workshop.run()
    folder = done.artifact()
    assert find_differences(folder) == []
    plain = AutoModelForCausalLM.from_pretrained(folder)
    ours = load_policy(folder, dtype="float32")
    assert torch.equal(logits_of(plain), logits_of(ours.model))
    before = AutoModelForCausalLM.from_pretrained(workshop.folder / "base")
    assert (logits_of(plain) - logits_of(before)).abs().max() > 0.01
    tokenizer = AutoTokenizer.from_pretrained(folder)
    stop = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert plain.generation_config.eos_token_id == [stop]
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "ant?"}], tokenize=False)
    assert "ant?" in prompt


def test_the_artifacts_weights_are_the_last_checkpoints_masters(workshop: Workshop) -> None:
    (workshop.folder / "own.py").write_text(
        "import shutil\nfrom pathlib import Path\n\n\nclass Keep:\n    def on_save(self, step, folder):\n"
        "        shutil.copytree(folder, Path(__file__).with_name(f'kept-{step}'))\n"
    )
    done = workshop.run(sft(callbacks=["own.py:Keep"]))
    saved = load_file(done.artifact() / "model.safetensors")
    state = load_file(workshop.folder / "kept-4" / "state.safetensors")
    assert len(saved) > 10 and all(torch.equal(saved[name], state[f"master/{name}"]) for name in saved)


def test_a_second_start_does_nothing_again_and_says_the_same(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = workshop.run(evaluate=[task()])
    before, hashes, items = first.record, first.hashes, first.items("held_out", "sft").read_bytes()
    metrics = first.stage().metrics.read_bytes()

    def refuse(*arguments: Any, **named: Any) -> None:
        raise AssertionError("this was done once already")

    for place in (
        "posttrain.chat.rendering.Renderer.render_samples",
        "posttrain.training.step.Updater.update",
        "posttrain.samplers.pool.Pool._advance",
        "posttrain.pipeline.stage_runs.save_policy",
    ):
        monkeypatch.setattr(place, refuse)
    second = workshop.run(evaluate=[task()], progress=(notes := Notes()))
    assert second.statuses == ["cached"] and second.hashes == hashes
    assert notes.notes == [f"sft: cached ({hashes[0][:12]})"]
    check_record(second.record)
    assert second.record["stages"][0] == {**before["stages"][0], "status": "cached"}
    assert second.record["metrics"] == before["metrics"]
    assert second.items("held_out", "sft").read_bytes() == items
    assert second.stage().metrics.read_bytes() == metrics


def test_tokenized_rows_are_read_again_when_only_the_training_changes(workshop: Workshop) -> None:
    workshop.run(progress=(first := Notes()))
    workshop.run(sft(learning_rate=2e-2), progress=(second := Notes()))
    assert any("10 rows tokenized now" in note for note in first.notes)
    assert any(" 0 rows tokenized now" in note for note in second.notes)


def test_the_same_recipe_elsewhere_makes_the_same_policy_and_another_seed_another(workshop: Workshop) -> None:
    first = workshop.run(evaluate=[task()])
    again = workshop.run(evaluate=[task()], into="elsewhere")
    assert again.statuses == ["finished"] and again.hashes == first.hashes
    assert again.lines() == first.lines()
    assert again.items("held_out", "sft").read_bytes() == first.items("held_out", "sft").read_bytes()
    assert again.record["metrics"] == first.record["metrics"]
    other = workshop.run(evaluate=[task()], into="third", seed=18)
    assert other.hashes != first.hashes and other.record["artifacts"][0] == first.record["artifacts"][0]


def test_fields_that_change_no_result_keep_the_artifact(workshop: Workshop) -> None:
    first = workshop.run()
    record, hashes, lines = first.record, first.hashes, first.lines()
    stage = sft(log_every_steps=3, checkpoint_every_steps=1)
    again = workshop.run(stage, loggers=["tensorboard"], name="renamed")
    assert again.statuses == ["cached"] and again.hashes == hashes
    assert again.record["plan_hash"] != record["plan_hash"]
    assert again.record["recipe_hash"] == record["recipe_hash"]
    apart = workshop.run(stage, loggers=["tensorboard"], into="apart")
    assert apart.statuses == ["finished"] and apart.hashes == hashes
    assert [line["step"] for line in apart.lines()] == [1, 3, 4]
    assert apart.lines()[-1]["num_tokens"] == lines[-1]["num_tokens"]


def test_another_configuration_runs_again_and_the_one_before_is_kept_and_comes_back(workshop: Workshop) -> None:
    first = workshop.run(evaluate=[task()])
    hashes = first.hashes
    left = {p.name: p.read_bytes() for p in (first.stage().metrics, first.stage().ledger)}
    other = workshop.run(sft(learning_rate=2e-2), evaluate=[task()], progress=(notes := Notes()))
    assert other.statuses == ["finished"] and other.hashes != hashes
    kept = other.folder.superseded / f"stages-01-sft-{load_manifest(first.folder.artifacts / hashes[0]).key}"
    assert {name: (kept / name).read_bytes() for name in left} == left
    assert f"what an earlier configuration left is kept in superseded/{kept.name}" in notes.notes
    assert other.lines() != [json.loads(line) for line in left["metrics.jsonl"].splitlines()]

    back = workshop.run(evaluate=[task()])
    assert back.statuses == ["cached"] and back.hashes == hashes
    assert {p.name: p.read_bytes() for p in (back.stage().metrics, back.stage().ledger)} == left
    assert [item["policy_hash"] for item in read_lines(back.items("held_out", "sft"))] == hashes * 5
    assert [path.name.split("-")[2] for path in back.folder.superseded.iterdir()] == ["sft"]


def test_another_row_in_the_data_runs_the_stage_again(workshop: Workshop) -> None:
    hashes = workshop.run().hashes
    make_rows(workshop.folder / "rows.jsonl", 11)
    second = workshop.run()
    assert second.statuses == ["finished"] and second.hashes != hashes
    assert second.record["stages"][0]["ledger"]["rows_in"] == 11
    assert len(list(second.folder.superseded.iterdir())) == 1


def test_a_stage_that_was_renamed_or_removed_leaves_no_folder_behind_that_looks_like_the_runs_own(
    workshop: Workshop,
) -> None:
    workshop.run(sft(name="read"), sft(name="polish"))
    after = workshop.run(sft(name="talk"))
    assert [path.name for path in after.folder.stages.iterdir()] == ["01-talk"]
    assert len(list(after.folder.superseded.iterdir())) == 2
    back = workshop.run(sft(name="read"), sft(name="polish"))
    assert back.statuses == ["cached", "cached"]
    assert [path.name for path in sorted(back.folder.stages.iterdir())] == ["01-read", "02-polish"]
    assert len(back.lines(1)) == 4


def test_another_configuration_of_the_base_runs_again_although_its_weights_are_the_same(workshop: Workshop) -> None:
    first = workshop.run(evaluate=[task()])
    path = workshop.folder / "base" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "rms_norm_eps": 0.1}))
    base, hashes = first.record["artifacts"][0], first.hashes
    second = workshop.run(evaluate=[task()])
    assert second.record["artifacts"][0] == base
    assert second.statuses == ["finished"] and second.hashes != hashes
    assert len(list(second.folder.superseded.glob("evaluations-*"))) == 1


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "delete", "manifest", "index", "folder"])
def test_a_damaged_artifact_is_noticed_and_made_again(workshop: Workshop, damage: str) -> None:
    first = workshop.run(sft(), sft(name="more"))
    hashes = first.hashes
    folder = first.artifact(0)
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    if damage == "flip":
        weights.write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])
    elif damage == "cut":
        weights.write_bytes(content[:-1])
    elif damage == "empty":
        weights.write_bytes(b"")
    elif damage == "delete":
        weights.unlink()
    elif damage == "manifest":
        (folder / "manifest.json").write_text("{}")
    elif damage == "index":
        for path in (first.folder.artifacts / "keys").iterdir():
            path.write_text('{"kind": "policy"')
    else:
        other = first.artifact(1)
        folder.rename(folder.with_name("spare"))
        other.rename(folder)
    second = workshop.run(sft(), sft(name="more"))
    assert second.hashes == hashes and second.record["status"] == "finished"
    assert second.statuses[0] == "finished"
    assert find_differences(second.artifact(0)) == find_differences(second.artifact(1)) == []


def test_a_run_that_fails_says_so_and_keeps_what_was_done(workshop: Workshop) -> None:
    (workshop.folder / "own.py").write_text("class Fail:\n    def on_step(self, *arguments):\n        1 / 0\n")
    with pytest.raises(RecipeError, match="ZeroDivisionError"):
        workshop.run(sft(), sft(name="more", callbacks=["own.py:Fail"]), evaluate=[task()])
    folder = workshop.folder / "run"
    record = json.loads((folder / "run.json").read_text())
    check_record(record)
    assert record["status"] == "failed"
    assert [stage["status"] for stage in record["stages"]] == ["finished", "failed"]
    assert record["report"] == "report.html" and (folder / "report.html").is_file()
    mended = workshop.run(sft(), sft(name="more"), evaluate=[task()])
    assert mended.statuses == ["cached", "finished"]
    assert mended.record["stages"][0]["tokens"] == record["stages"][0]["tokens"]


def test_what_is_known_of_a_cached_stage_outlives_a_start_that_never_reaches_it(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = workshop.run(evaluate=[task()])
    entry = first.record["stages"][0]
    with monkeypatch.context() as patch:
        patch.setattr("posttrain.pipeline.run_gates.measure_all", lambda *arguments, **named: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            workshop.run(evaluate=[task()])
    record = json.loads(first.folder.run_json.read_text())
    check_record(record)
    assert record["status"] == "failed" and record["stages"][0]["status"] == "pending"
    again = workshop.run(evaluate=[task()])
    assert again.record["stages"][0] == {**entry, "status": "cached"}
    assert None not in (entry["seconds"], entry["tokens"], entry["ledger"])


def test_a_revision_of_what_has_none_is_refused(workshop: Workshop) -> None:
    for source in ("base", "lab:seedling"):
        with pytest.raises(RecipeError, match="revision"):
            workshop.run(model={"source": source, "revision": "main"})


def test_the_labs_model_and_rows_need_nothing_but_the_recipe(workshop: Workshop) -> None:
    stage = sft(data=[{"source": "lab:conversations", "rows": 12}], steps=2)
    held_out = task(data={"source": "lab:conversations", "split": "held_out", "rows": 2}, max_new_tokens=96)
    done = workshop.run(stage, model="lab:seedling", evaluate=[held_out])
    check_record(done.record)
    assert build_plan(done.recipe).base_hash == done.record["artifacts"][0]["hash"]
    assert done.record["artifacts"][0]["folder"].startswith("cache/models/seedling-")


def test_the_sandbox_that_programs_ran_in_is_part_of_the_record(workshop: Workshop) -> None:
    programs = [f"def f{n}(x):\n    return x" for n in range(3)]
    rows = [
        {"prompt": f"Write f{n}.", "completion": program, "entry": f"f{n}", "tests": [[[1], 1]]}
        for n, program in enumerate(programs)
    ]
    (workshop.folder / "programs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    scorer = {"type": "code", "scoring": "all"}
    done = workshop.run(evaluate=[task(data={"source": "programs.jsonl"}, scorer=scorer, max_new_tokens=40)])
    check_record(done.record)
    assert done.record["machine"]["sandbox"] in ("bubblewrap", "landlock")
    (figures,) = (entry for entry in done.record["metrics"] if entry["stage"] == "base" and entry["name"] == "code")
    assert (figures["value"], figures["method"], figures["n"]) == (None, "unread", 3)
