"""What a stage that samples is given and cannot use: a clear error or a counted drop, and a run folder that goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.core.errors import DataError, PosttrainError, RecipeError, RefusedError, StorageError, TerminatedError
from posttrain.core.run_folder import RunFolder
from posttrain.rollouts import journal
from tests.pipeline.tiny_runs import Finished, StopInTraining, Workshop

OWN = """\
import os
import time
from pathlib import Path

HERE = Path(__file__).parent


def length(completions, **columns):
    return [float(len(text)) for text in completions]


def nothing(completions, **columns):
    return [1.0 for _ in completions]


def raising(completions, **columns):
    raise ZeroDivisionError("no denominator")


def not_a_number(completions, **columns):
    return [float("nan") for _ in completions]


def infinite(completions, **columns):
    return [float("inf") for _ in completions]


def words(completions, **columns):
    return ["good" for _ in completions]


def none(completions, **columns):
    return None


def short(completions, **columns):
    return [1.0 for _ in completions[1:]]


def inapplicable(completions, **columns):
    return [None for _ in completions]


def hanging(completions, **columns):
    time.sleep(3)


def failing_while_away(completions, **columns):
    if (HERE / "away").exists():
        raise OSError("the judge is away")
    return [float(len(text)) for text in completions]


def failing_once_in_a_while(completions, **columns):
    if not (HERE / "failed").exists():
        (HERE / "failed").touch()
        raise OSError("once")
    return [float(len(text)) for text in completions]
"""
LET_THROUGH = ("length_caps", "rollouts")


def rl(**changes: Any) -> dict[str, Any]:
    return {
        "name": "rl",
        "type": "grpo",
        "data": [{"source": "rows.jsonl"}],
        "scorer": "own.py:length",
        "steps": 3,
        "problems_per_step": 4,
        "group_size": 4,
        "max_new_tokens": 6,
        "learning_rate": 3e-3,
        "dtype": "float32",
        "log_every_steps": 1,
        "checkpoint_every_steps": 1,
        **changes,
    }


@pytest.fixture
def own(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    """A workshop with scorers of a user's own."""
    (workshop.folder / "own.py").write_text(OWN)
    monkeypatch.chdir(workshop.folder)
    return workshop


def write_rows(workshop: Workshop, *rows: dict[str, Any]) -> list[dict[str, str]]:
    """Write rows of prompts beside the others and return what `data` says of them."""
    (workshop.folder / "made.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [{"source": "made.jsonl"}]


def ask(text: str = "How many?", **columns: Any) -> dict[str, Any]:
    return {"prompt": [{"role": "user", "content": text}], **columns}


def check_goes_on(workshop: Workshop, values: dict[str, Any], failed: str) -> None:
    """Check that the folder says how it ended, and that the same command then comes to the end of one left alone."""
    record = json.loads((workshop.folder / "run" / "run.json").read_text())
    assert record["status"] == failed
    done = workshop.run(values, override=LET_THROUGH)
    assert done.statuses == ["finished"]
    assert done.hashes == workshop.run(values, override=LET_THROUGH, into="whole").hashes


def stop_after_an_update(workshop: Workshop, values: dict[str, Any], into: str = "run") -> None:
    stop = StopInTraining(1)
    with pytest.raises(TerminatedError):
        workshop.run(values, override=LET_THROUGH, progress=stop, should_stop=stop, into=into)


# ---- problems


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_set_of_problems_is_refused(own: Workshop, content: str) -> None:
    (own.folder / "made.jsonl").write_text(content)
    with pytest.raises(DataError) as caught:
        own.run(rl(data=[{"source": "made.jsonl"}]), override=LET_THROUGH)
    assert "made.jsonl" in str(caught.value) or caught.value.place == "data"


NEEDS_COLUMNS = (
    "exact_match",
    {"type": "math"},
    {"type": "code"},
    {"type": "short_answer"},
    {"type": "instructions"},
    {"type": "structure"},
    {"type": "proof"},
    {"type": "tool_calls"},
    {"type": "cosine_length", "correctness": {"type": "math"}, "max_length": 100},
    {
        "type": "weighted",
        "components": [{"name": "a", "scorer": "exact_match"}, {"name": "b", "scorer": {"type": "length", "high": 9}}],
    },
    "lab",
)


@pytest.mark.parametrize("scorer", NEEDS_COLUMNS, ids=lambda value: value if isinstance(value, str) else value["type"])
def test_problems_without_an_answer_are_refused_before_anything_is_drawn(
    own: Workshop, monkeypatch: pytest.MonkeyPatch, scorer: Any
) -> None:
    from posttrain.samplers.local import LocalSampler

    drawn: list[object] = []
    monkeypatch.setattr(LocalSampler, "sample", lambda *arguments: drawn.append(arguments) or iter(()))
    data = write_rows(own, *[ask(f"How many {number}?") for number in range(5)])
    with pytest.raises(DataError) as caught:
        own.run(rl(data=data, scorer=scorer), override=LET_THROUGH)
    assert "5 of 5 rows cannot be used" in caught.value.found and "the scorer cannot judge it" in caught.value.found
    assert "max_bad_fraction" in caught.value.cure and not drawn


def test_rows_that_cannot_be_used_are_counted_where_their_source_allows_some(own: Workshop) -> None:
    """Of 12 rows one has no answer, one's prompt is longer than the context, one leaves no room: 9 are trained on."""
    rows = [ask(f"{number}?", answer=str(number)) for number in range(9)]
    rows += [ask("no answer"), ask("long " * 60, answer="1"), ask("x" * 240, answer="1")]
    data = write_rows(own, *rows)
    done = own.run(rl(data=[{**data[0], "max_bad_fraction": 0.3}], scorer="exact_match", steps=1), override=LET_THROUGH)
    ledger = json.loads(done.stage().ledger.read_text())
    assert (ledger["rows_in"], ledger["rows_trained"], ledger["rows_dropped"]) == (12, 9, 3)
    reasons = {reason: [row["row_id"] for row in entry["listed"]] for reason, entry in ledger["dropped"].items()}
    assert sorted(len(ids) for ids in reasons.values()) == [1, 2]
    assert any("no room" in reason and len(ids) == 2 for reason, ids in reasons.items())


@pytest.mark.parametrize("text", ["long " * 100, "x" * 240])
def test_a_prompt_without_room_for_a_completion_is_refused_before_anything_is_drawn(own: Workshop, text: str) -> None:
    """The context is 256 tokens, a letter each: the first is longer, the second leaves fewer than 32."""
    data = write_rows(own, *[ask(str(number)) for number in range(40)], ask(text))
    with pytest.raises(DataError, match="1 of 41 rows cannot be used") as caught:
        own.run(rl(data=data, max_new_tokens=32, steps=100), override=LET_THROUGH)
    assert "leaves no room" in caught.value.found and "in a context of 256" in caught.value.found


def test_max_new_tokens_beyond_the_context_is_refused(own: Workshop) -> None:
    with pytest.raises(DataError, match="10 of 10 rows cannot be used"):
        own.run(rl(max_new_tokens=1000), override=LET_THROUGH)


def test_a_problem_that_is_named_twice_is_refused(own: Workshop) -> None:
    with pytest.raises(PosttrainError) as caught:
        own.run(rl(data=[{"source": "rows.jsonl"}, {"source": "rows.jsonl"}]), override=LET_THROUGH)
    assert "more than once" in str(caught.value) or "twice" in str(caught.value)


# ---- rewards


@pytest.mark.parametrize(
    "scorer", ["exact_mach", "own.py:lenght", "away.py:length", {"type": "maths"}, {}, ""], ids=str
)
def test_an_unknown_scorer_is_refused_when_the_recipe_is_read(own: Workshop, scorer: Any) -> None:
    with pytest.raises((RecipeError, DataError)) as caught:
        own.run(rl(scorer=scorer), override=LET_THROUGH)
    assert not isinstance(caught.value, DataError) or "away.py" in str(caught.value)


@pytest.mark.parametrize(
    ("scorer", "found"),
    [
        ("raising", "ZeroDivisionError: no denominator"),
        ("not_a_number", "nan"),
        ("infinite", "inf"),
        ("words", "good"),
        ("none", "raised TypeError"),
        ("short", "values for"),
    ],
)
def test_a_reward_function_that_gives_no_rewards_is_refused_at_the_start_and_stops_a_run(
    own: Workshop, scorer: str, found: str
) -> None:
    with pytest.raises(RefusedError, match=found):
        own.run(rl(scorer=f"own.py:{scorer}"), override=("length_caps",))
    with pytest.raises(RefusedError, match=found) as caught:
        own.run(rl(scorer=f"own.py:{scorer}"), override=LET_THROUGH)
    assert "at most 1%" in caught.value.expected and caught.value.place == "rollouts"
    assert own.finished().record["status"] == "refused"


def test_a_reward_function_that_hangs_costs_its_deadline_and_stops_the_run(own: Workshop) -> None:
    scorer = {"type": "function", "reference": "own.py:hanging", "timeout_seconds": 0.2}
    with pytest.raises(RefusedError, match=r"did not return within 0\.2 s"):
        own.run(rl(scorer=scorer), override=LET_THROUGH)


def test_a_judge_that_is_away_stops_the_run_and_the_same_command_goes_on_when_it_is_back(own: Workshop) -> None:
    values = rl(scorer="own.py:failing_while_away")
    stop_after_an_update(own, values)
    (own.folder / "away").touch()
    with pytest.raises(RefusedError, match="the judge is away"):
        own.run(values, override=LET_THROUGH)
    (own.folder / "away").unlink()
    check_goes_on(own, values, failed="refused")


def test_a_failure_that_is_gone_when_tried_again_leaves_no_trace(own: Workshop) -> None:
    values = rl(scorer="own.py:failing_once_in_a_while")
    first = own.run(values, override=LET_THROUGH)
    assert (own.folder / "failed").exists()
    assert first.hashes == own.run(values, override=LET_THROUGH, into="again").hashes


def test_a_scorer_that_never_applies_leaves_the_weights_as_they_are_and_says_that_nothing_was_counted(
    own: Workshop,
) -> None:
    with pytest.raises(RefusedError, match="applies to no group"):
        own.run(rl(scorer="own.py:inapplicable"), override=("length_caps",))
    done = own.run(rl(scorer="own.py:inapplicable", steps=1), override=LET_THROUGH)
    assert done.lines()[0]["informative_fraction"] == 0.0


@pytest.mark.parametrize("changes", [{}, {"max_waves": 3}, {"minibatches": 2, "epochs_per_step": 2}], ids=str)
def test_rewards_that_are_all_equal_teach_nothing_and_every_step_says_so(
    own: Workshop, changes: dict[str, Any]
) -> None:
    with pytest.raises(RefusedError, match="rewards are 1"):
        own.run(rl(scorer="own.py:nothing"), override=("length_caps",))
    values = rl(scorer="own.py:nothing", algorithm="dr_grpo", steps=2, weight_decay=0.0, **changes)
    done = own.run(values, override=LET_THROUGH, into="equal")
    assert done.statuses == ["finished"]
    lines = done.lines()
    assert [line["informative_fraction"] for line in lines] == [0.0] * len(lines)
    assert [line["grad_norm"] for line in lines] == [0.0] * len(lines)


# ---- the journal


def stop_in_step(own: Workshop, values: dict[str, Any]) -> Path:
    """Stop a run between two updates of a step and return the journal of that step."""
    stop_after_an_update(own, values)
    (path,) = own.finished().stage().rollouts.glob("*.rollouts")
    return path


TWO_UPDATES: dict[str, Any] = {"minibatches": 2}


def test_a_disk_that_is_full_for_the_journal_is_a_clear_error_and_the_run_goes_on(
    own: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def append_lines(path: Path, lines: Any) -> None:
        from posttrain.core.durable import storage_errors

        with storage_errors(path):
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(journal, "append_lines", append_lines)
        with pytest.raises(StorageError, match="No space left on device") as caught:
            own.run(rl(), override=LET_THROUGH)
    assert caught.value.place.endswith(".rollouts") and "free some space" in caught.value.cure
    check_goes_on(own, rl(), failed="failed")


@pytest.mark.invariants
def test_a_journal_that_is_torn_or_of_another_policy_is_drawn_again(own: Workshop) -> None:
    """A stop after the first step, then what the next step had begun: half a file, and one of other weights."""
    values = rl()
    whole = own.run(values, override=LET_THROUGH, into="whole").hashes
    for name in ("torn", "other", "noise"):
        stop_after_an_update(own, values, into=name)
        (first,) = own.finished().stage().rollouts.glob("*.rollouts")
        content = first.read_bytes()
        following = first.with_name("00000001.rollouts")
        following.write_bytes(
            {"torn": content[: len(content) // 2], "other": content, "noise": b"\x00\xff\n{}\nno journal"}[name]
        )
        assert own.run(values, override=LET_THROUGH, into=name).hashes == whole


@pytest.mark.invariants
def test_a_journal_that_is_missing_between_two_updates_of_a_step_is_named_with_the_cure(own: Workshop) -> None:
    path = stop_in_step(own, rl(**TWO_UPDATES))
    content = path.read_bytes()
    for broken in (None, content[:-40], b""):
        path.unlink(missing_ok=True)
        if broken is not None:
            path.write_bytes(broken)
        with pytest.raises(StorageError, match="rollouts of the step that was under way are missing") as caught:
            own.run(rl(**TWO_UPDATES), override=LET_THROUGH)
        assert caught.value.place == str(path)
    path.write_bytes(content)
    check_goes_on(own, rl(**TWO_UPDATES), failed="failed")


def test_the_newest_checkpoint_may_be_deleted_where_its_journal_is_lost(own: Workshop) -> None:
    """The cure that the error names."""
    import shutil

    path = stop_in_step(own, rl(**TWO_UPDATES))
    path.unlink()
    newest = sorted(own.finished().stage().checkpoints.iterdir())[-1]
    shutil.rmtree(newest)
    done = own.run(rl(**TWO_UPDATES), override=LET_THROUGH)
    whole = own.run(rl(**TWO_UPDATES), override=LET_THROUGH, into="whole")
    assert done.hashes == whole.hashes and Finished(done.recipe, RunFolder(done.folder.root)).statuses == ["finished"]
