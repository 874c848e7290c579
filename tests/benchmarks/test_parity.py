"""Engines side by side: what counts as the same, and which differences rounding explains."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.parity_tables import compare_answers, find_parting, format_table
from benchmarks.parity_work import TEXT_KINDS, Answers, Work, cut_at_stop, read_answers, read_work, write_record

STOP = 2
WORK = Work(["a", "b"], ["p", "q"], [[1, 5], [1, 6]], [STOP, 9], 3, "float32")
KINDS = ["digits", "tabs"]
REFERENCE = Answers("reference", [[3], [4]], [[1, 5], [1, 6]], [[7, 8], [7]], ["xy", "x"])


def refuse_gap(prompt: int, following: object, one: int, two: int) -> float:
    raise AssertionError("no completion parts")


def compare(other: Answers, gap: float = 0.0):
    return compare_answers(WORK, KINDS, REFERENCE, other, lambda *where: gap)


def test_an_engine_that_does_the_same_has_no_faults_and_no_gap_is_asked_for() -> None:
    found = compare_answers(WORK, KINDS, REFERENCE, replace(REFERENCE, engine="twin"), refuse_gap)
    assert found.list_faults(0.0) == []
    assert (found.equal_prompts, found.equal_texts, found.first_parting) == (2, 2, None)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([7, 8], [7, 8], None),
        ([], [], None),
        ([7, 8], [7, 9], (1, 8, 9)),
        ([7, 8], [7], (1, 8, STOP)),
        ([], [7, 8], (0, STOP, 7)),
    ],
)
def test_completions_part_at_the_first_other_token_and_the_shorter_one_stops_there(one, other, expected) -> None:
    assert find_parting(one, other, STOP) == expected


def test_the_gap_is_asked_for_after_what_both_have_drawn() -> None:
    asked = []

    def find_gap(prompt, following, one, two):
        asked.append((prompt, list(following), one, two))
        return 0.5

    compare_answers(WORK, KINDS, REFERENCE, replace(REFERENCE, completion_ids=[[7, 6], [7, 8]]), find_gap)
    assert asked == [(0, [7], 8, 6), (1, [7], STOP, 8)]


def test_a_tie_is_no_fault_and_a_larger_gap_is_one() -> None:
    other = replace(REFERENCE, engine="peer", completion_ids=[[7, 6], [7]], completion_texts=["xz", "x"])
    assert compare(other, gap=1e-5).list_faults(1e-3) == []
    assert compare(other, gap=1e-5).equal_texts == 1
    (fault,) = compare(other, gap=0.25).list_faults(1e-3)
    assert (
        fault == "peer: 1 completions part where tokens are more than 0.001 nats apart, up to 0.25 (prompt 0, token 1)"
    )


def test_a_token_that_the_reference_itself_holds_to_be_likelier_is_no_fault() -> None:
    other = replace(REFERENCE, completion_ids=[[7, 6], [7]], completion_texts=["xz", "x"])
    assert compare(other, gap=-0.3).list_faults(1e-3) == []


def test_a_gap_that_is_no_number_is_a_fault() -> None:
    other = replace(REFERENCE, completion_ids=[[7, 6], [7]], completion_texts=["xz", "x"])
    assert compare(other, gap=float("nan")).list_faults(1e-3)


def test_other_ids_are_faults_that_name_the_kinds_of_text_and_count_prompts() -> None:
    other = replace(REFERENCE, engine="peer", text_ids=[[3], [4, 4]], prompt_ids=[[1, 5], [6]])
    assert compare(other).list_faults(1e9) == ["peer: other ids for tabs", "peer: other ids for 1 of 2 prompts"]
    both = replace(REFERENCE, engine="peer", text_ids=[[], []])
    found = compare_answers(WORK, ["digits", "digits"], REFERENCE, both, refuse_gap)
    assert found.list_faults(1e9) == ["peer: other ids for digits (2 texts)"]


def test_prompts_are_held_against_the_renderer_and_not_against_the_reference() -> None:
    wrong = replace(REFERENCE, prompt_ids=[[1, 5], [6]])
    found = compare_answers(WORK, KINDS, wrong, wrong, refuse_gap)
    assert found.equal_prompts == 1
    assert found.list_faults(1e9)


def test_another_text_from_the_same_ids_is_a_fault() -> None:
    found = compare(replace(REFERENCE, engine="peer", completion_texts=["xy", "y"]))
    assert found.list_faults(1e9) == ["peer: other text from the same ids, first after prompt 1"]


def test_answers_for_fewer_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        compare(replace(REFERENCE, completion_ids=[[7, 8]]))


def test_the_table_shows_the_earliest_parting_and_the_largest_gap() -> None:
    other = replace(REFERENCE, engine="peer", completion_ids=[[7, 6], [8]], completion_texts=["xz", "y"])
    gaps = {0: 0.25, 1: 0.0005}
    found = compare_answers(WORK, KINDS, REFERENCE, other, lambda prompt, *where: gaps[prompt])
    row = format_table([found]).splitlines()[-1]
    assert row == "| peer | 2 of 2 | 2 of 2 | 0 of 2 | prompt 1, token 0: 7 or 8, 0.0005 nats | 0.25 nats |"


def test_a_completion_ends_before_its_first_stop_token() -> None:
    assert cut_at_stop([7, 9, 8, 2], WORK.stop_ids) == [7]
    assert cut_at_stop([7, 8], WORK.stop_ids) == [7, 8]


def test_work_and_answers_come_back_from_their_files(tmp_path: Path) -> None:
    work = replace(WORK, texts=list(TEXT_KINDS.values()))
    write_record(work, tmp_path / "work.json")
    write_record(REFERENCE, tmp_path / "answers.json")
    assert read_work(tmp_path / "work.json") == work
    assert read_answers(tmp_path / "answers.json") == REFERENCE
    assert work.context_tokens == 5
