"""Stages of best-of-n as runs: what the study says, that a stop changes nothing, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from posttrain.core.run_folder import STUDY_PAGE
from tests.pipeline.best_of_n_runs import find_study, read_study, study, write_study_files
from tests.pipeline.reward_runs import make_reward_workshop
from tests.pipeline.tiny_runs import Notes, Workshop, sft

ENSEMBLE = {
    "mean": {"type": "learned", "model": "rm"},
    "worst": {"type": "learned", "model": "rm", "aggregation": "worst_case"},
    "first": {"type": "learned", "model": "rm", "members": [0]},
    "second": {"type": "learned", "model": "rm", "members": [1]},
}


@pytest.fixture
def workshop(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    made = make_reward_workshop(tmp_path / "work", tiny_base)
    write_study_files(made.folder)
    monkeypatch.chdir(made.folder)
    return made


def test_a_study_is_an_artifact_beside_the_policy_as_it_came(workshop: Workshop) -> None:
    notes = Notes()
    run = workshop.run(
        sft(steps=1), study(verifiers={"even": "texts.py:long"}), sft(name="after", steps=1), progress=notes
    )
    first, studied, after = run.record["stages"]
    assert studied["outputs"]["policy"] == first["outputs"]["policy"] == after["inputs"]["policy"]
    found = read_study(run, 1)
    ways = {way["name"]: way for way in found["ways"]}
    assert list(ways) == ["random", "majority", "even", "long", "oracle"]
    assert [point["n"] for point in ways["long"]["points"]] == [1, 2, 4, 8]
    assert ways["long"]["own"][-1]["value"] > ways["long"]["own"][0]["value"]
    assert "The best of 1 to 8 answers" in (find_study(run, 1) / STUDY_PAGE).read_text()
    assert run.record["artifacts"][2]["kind"] == "evaluation"
    assert any(note.startswith("study: long: ") for note in notes.notes)
    [reading] = run.record["monitors"]
    assert (reading["stage"], reading["monitor"]) == ("study", "over_optimisation-long")
