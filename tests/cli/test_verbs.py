"""What each verb prints, for a person and for a program."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from posttrain.cli.data import colour_tokens, mark_tokens
from posttrain.cli.output import print_table
from posttrain.cli.plan import format_bytes, format_learning_rates, format_seconds
from tests.cli.commands import run_here
from tests.pipeline.recipes import write_recipe
from tests.reports.made_up_run import write_run

TOKENS = [["<s>", 1, 0, 0], ["user", 5, 0, 0], [" Hi\n", 6, 2, 0], [" Yo\x1b[31m", 7, 3, 1], ["</s>", 2, 3, 1]]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put a module in the place of one that a verb imports."""

    def put(name: str, **contents: Any) -> None:
        module = types.ModuleType(name)
        module.__dict__.update(contents)
        monkeypatch.setitem(sys.modules, name, module)

    return put


def planned_stage(**changes: Any) -> SimpleNamespace:
    values = {
        "name": "sft", "round": 1, "type": "sft", "status": "run", "why": "never done", "steps": 1200,
        "tokens": 3_400_000, "learning_rates": (1e-5, 5e-4, 0.0), "memory_bytes": 1_834_000_000, "seconds": 125.0,
        "answers": None, "verdicts": None,
    }  # fmt: skip
    return SimpleNamespace(**{**values, **changes})


def test_a_plan_is_a_table_that_is_never_cut_and_shows_what_is_unknown_as_a_dash(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, install: Callable[..., None]
) -> None:
    unknown = {"steps": None, "tokens": None, "learning_rates": None, "memory_bytes": None, "seconds": None}
    stages = [planned_stage(), planned_stage(name="polish", round=2, status="cached", why="same key", **unknown)]
    stages.append(planned_stage(name="study", type="best_of_n", answers=19_200, verdicts=172_800, **unknown))
    plan = SimpleNamespace(stages=stages, plan_hash="p" * 32, recipe_hash="r" * 32)
    install("posttrain.pipeline.plan", build_plan=lambda recipe: plan)
    lines = run_here(capsys, "plan", write_recipe(tmp_path), "--folder", "/tmp/out").out.splitlines()
    assert lines[0] == "demo: lab:seedling, seed 17, into /tmp/out"
    assert lines[2].split("  ")[0] == "sft"
    for cell in ("1,200", "3,400,000", "1e-05, 0.0005, 0", "1.83 GB", "about 2:05 min", "never done"):
        assert cell in lines[2]
    assert lines[3].split() == ["polish", "(round", "2)", "sft", "cached", "-", "-", "-", "-", "-", "same", "key"]
    assert lines[4].endswith("never done; 19,200 answers, 172,800 verdicts")
    assert lines[5] == f"plan {'p' * 32}, recipe {'r' * 32}"


def test_a_plan_for_a_program_is_the_plans_own_json(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, install: Callable[..., None]
) -> None:
    install("posttrain.pipeline.plan", build_plan=lambda recipe: SimpleNamespace(to_json=lambda: {"seed": recipe.seed}))
    found = run_here(capsys, "plan", write_recipe(tmp_path), "--json", "--set", "seed=3")
    assert json.loads(found.out) == {"seed": 3}


def test_the_schema_is_printed_without_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    found = run_here(capsys, "plan", "--schema")
    assert found.code == 0 and json.loads(found.out)["properties"]["schema"] == {"const": 1}


def test_a_run_gets_the_recipe_with_its_overrides_and_says_where_the_report_is(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, install: Callable[..., None]
) -> None:
    def run_recipe(recipe: Any, *, should_stop: Callable[[], bool], override: Any, **_: Any) -> Path:
        assert recipe.stages[0].config.learning_rate == 1e-4 and not should_stop()
        assert list(override) == ["sft:mask", "memory"]
        recipe.folder.mkdir()
        (recipe.folder / "report.html").write_text("")
        return Path(recipe.folder)

    install("posttrain.pipeline.run", run_recipe=run_recipe)
    overrides = ["--override", "sft:mask", "--override", "memory"]
    command = ["run", write_recipe(tmp_path), "--set", "sft.learning_rate=1e-4", *overrides, "--folder"]
    assert run_here(capsys, *command, tmp_path / "a").out.splitlines() == [
        f"run folder: {tmp_path / 'a'}",
        f"report: {tmp_path / 'a' / 'report.html'}",
    ]
    found = run_here(capsys, *command, tmp_path / "b", "--json")
    assert json.loads(found.out) == {
        "folder": str(tmp_path / "b"),
        "report": str(tmp_path / "b" / "report.html"),
        "gates": [],
        "alarms": [],
    }


def test_of_a_torchrun_job_only_the_first_process_says_where_the_run_is(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    install: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install("posttrain.pipeline.run", run_recipe=lambda read, **_: tmp_path / "run")
    recipe = write_recipe(tmp_path)
    for rank, lines in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        found = run_here(capsys, "run", recipe)
        assert (found.code, found.out.count("\n")) == (0, lines)


def test_rows_are_shown_token_by_token_with_what_is_trained_on(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, install: Callable[..., None]
) -> None:
    asked: list[Any] = []

    def preview_rows(recipe: Any, stage: str, rows: int) -> list[dict[str, Any]]:
        asked.append((stage, rows))
        return [{"row_id": "chats.jsonl:3", "tokens": TOKENS}]

    install("posttrain.pipeline.previews", preview_rows=preview_rows)
    recipe = write_recipe(tmp_path)
    lines = run_here(capsys, "data", "show", recipe, "--rows", "2").out.splitlines()
    assert lines[2] == "chats.jsonl:3: 5 tokens, 2 trained on"
    assert "\n".join(lines[3:]) == "|<s>|user| Hi\n|«| Yo␛[31m|</s>|»|"
    assert json.loads(run_here(capsys, "data", "show", recipe, "--stage", "sft", "--json").out)["rows"][0]["tokens"]
    assert asked == [("sft", 2), ("sft", 3)]
    found = run_here(capsys, "data", "show", recipe, "--stage", "stf")
    assert found.code == 2 and "did you mean 'sft'?" in found.err


def test_marks_stand_around_every_run_of_trained_tokens() -> None:
    assert mark_tokens([["a", 1, 3, 1], ["b", 1, 2, 0], ["c", 1, 3, 1]]) == "|«|a|»|b|«|c|»|"
    assert mark_tokens([]) == "|"


def test_on_a_terminal_trained_tokens_are_green_and_no_token_can_send_a_command() -> None:
    text = colour_tokens(TOKENS)
    assert text.plain == "<s>user Hi\n Yo␛[31m</s>"
    assert ["green" in str(span.style) for span in text.spans] == [False, False, False, True, True]
    console = Console(force_terminal=True, width=200)
    with console.capture() as capture:
        console.print(text)
    assert "\x1b[31m" not in capture.get()


def test_a_data_file_is_checked_and_its_bad_rows_are_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    good = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]}
    path.write_text(json.dumps(good) + "\n" + '{"prompt": "a", "completion": "b"}\n')
    found = run_here(capsys, "data", "check", path)
    assert found.code == 0
    assert found.out.splitlines()[0] == f"{path}: 2 rows, 2 can be used"
    path.write_text(json.dumps(good) + "\nnot json \x1b[31m\n" + '{"messages": 3}\n')
    found = run_here(capsys, "data", "check", path)
    assert found.code == 3 and "chats.jsonl:2" in found.out and "chats.jsonl:3" in found.out and "\x1b" not in found.out
    ledger = json.loads(run_here(capsys, "data", "check", path, "--json").out)["ledger"]
    assert (ledger["rows_in"], ledger["rows_trained"], ledger["rows_dropped"]) == (3, 1, 2)


def test_columns_of_a_data_file_may_be_mapped(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "sums.jsonl"
    path.write_text('{"question": "2+2?", "answer": "4"}\n')
    mapped = ["--column", "prompt=question", "--column", "completion=answer"]
    assert run_here(capsys, "data", "check", path, *mapped).code == 0
    for wrong in (["--column", "prompt"], ["--column", "prompt=a", "--column", "prompt=b"], ["--format", "trll"]):
        assert run_here(capsys, "data", "check", path, *wrong).code == 2
    assert run_here(capsys, "data", "check", tmp_path / "missing.jsonl").code == 3


def test_the_report_of_a_folder_without_a_run_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    found = run_here(capsys, "report", tmp_path)
    assert found.code == 74 and "run.json" in found.err


def test_the_place_of_a_written_report_is_printed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, install: Callable[..., None]
) -> None:
    install("posttrain.reports.page", build_report=lambda folder: folder / "report.html")
    assert run_here(capsys, "report", tmp_path).out == f"report: {tmp_path / 'report.html'}\n"
    assert json.loads(run_here(capsys, "report", tmp_path, "--json").out) == {"report": str(tmp_path / "report.html")}


def test_report_writes_a_card_or_two_runs_side_by_side_and_refuses_what_is_neither(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    first, second = write_run(tmp_path / "first"), write_run(tmp_path / "second")
    assert run_here(capsys, "report", first, "--card").out == f"card: {first / 'README.md'}\n"
    assert (first / "README.md").read_text().startswith("---\nlibrary_name")
    page = tmp_path / "runs.html"
    assert json.loads(run_here(capsys, "report", first, second, "--page", page, "--json").out) == {"page": str(page)}
    assert "two runs side by side" in page.read_text()
    for given in ((first, second), (first, "--page", page), (first, second, "--page", page, "--card")):
        assert run_here(capsys, "report", *given).code == 2
    assert run_here(capsys, "report", first, tmp_path / "nowhere", "--page", page).code == 74


def test_an_unknown_dtype_is_refused_before_anything_is_loaded(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = run_here(capsys, "export", tmp_path, tmp_path / "out", "--dtype", "float23")
    assert found.code == 2 and "did you mean 'float32'?" in found.err


def test_a_table_on_a_terminal_keeps_text_that_looks_like_markup(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    print_table(("stage", "why"), [["sft", "[red]key[/red] \x1b[31mchanged"]])
    assert "[red]key[/red] changed" in capsys.readouterr().out


def test_figures_have_units() -> None:
    assert [format_bytes(size) for size in (None, 0, 999, 1000, 25_600_000, 3.2e12, 7e15)] == [
        "-", "0 B", "999 B", "1 kB", "25.6 MB", "3.2 TB", "7e+03 TB",
    ]  # fmt: skip
    assert format_learning_rates([1e-3, 5e-4, 0]) == "0.001, 0.0005, 0"
    assert (format_seconds(None), format_seconds(9.4)) == ("-", "about 9.4 s")


@pytest.mark.parametrize(
    "flag",
    [("--seed", "3"), ("--out", "elsewhere"), ("--dtype", "float32"), ("--device", "cpu"), ("--rows", "3"),
     ("--allow-unsafe-execution",), ("--task", "facts"), ("--template", "plain")],
)  # fmt: skip
def test_how_to_measure_is_refused_where_a_comparison_measures_nothing(
    capsys: pytest.CaptureFixture[str], flag: tuple[str, ...]
) -> None:
    finished = run_here(capsys, "compare", "runs/a", "runs/b", *flag)
    assert finished.code == 2
    assert flag[0] in finished.err and "--suite" in finished.err
