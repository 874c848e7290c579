"""Real rows on a real model: this project's numbers are those of lm-evaluation-harness's own back-end."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.harness_parity import STORIES, TASKS, write_real_tasks
from benchmarks.harness_tasks import build_task, compare, measure, measure_by_harness

pytestmark = [pytest.mark.invariants, pytest.mark.real_data]
NUM_DOCUMENTS = 60


@pytest.mark.parametrize("name", TASKS)
def test_a_real_model_gets_the_harnesss_own_numbers_on_real_rows(real_data: Path, tmp_path: Path, name: str) -> None:
    """Some stories are longer than the model's context of 512 tokens, and some questions of GSM8K leave 48 no room."""
    model = real_data / STORIES
    write_real_tasks(tmp_path, real_data)
    ours = measure(model, tmp_path, build_task(name, limit=NUM_DOCUMENTS)).measured[name.replace("_", "-")]
    assert len(ours.problem_ids) == NUM_DOCUMENTS
    worst = compare({name: ours}, measure_by_harness(model, tmp_path, [name], limit=NUM_DOCUMENTS), [name])
    assert worst["metrics"] < 1e-4
    assert worst["loglikelihoods"] < 1e-3


def test_examples_before_a_question_are_the_ones_that_the_harness_draws(real_data: Path, tmp_path: Path) -> None:
    model, name = real_data / STORIES, TASKS[0]
    write_real_tasks(tmp_path, real_data)
    ours = measure(model, tmp_path, build_task(name, limit=20, shots=2)).measured[name.replace("_", "-")]
    theirs = measure_by_harness(model, tmp_path, [name], limit=20, num_fewshot=2)
    for item, sample in zip(ours.read_items(), theirs["samples"][name], strict=True):
        assert item.prompt[0]["content"] == sample["arguments"][0][0]
    worst = compare({name: ours}, theirs, [name])
    assert worst["metrics"] < 1e-4 and worst["loglikelihoods"] < 1e-3
