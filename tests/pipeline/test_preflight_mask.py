"""The mask of a stage's rows: what is trained on, and whether it teaches to stop."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from posttrain.core.errors import DataError, RefusedError
from posttrain.core.records import RenderedSample, Source
from posttrain.data.ledger import Ledger
from posttrain.data.tokenized import NOT_TRAINED
from posttrain.pipeline.preflight.mask import check_mask, compute_mask_figures
from posttrain.stages.sft import SftConfig
from tests.pipeline.tiny_runs import Workshop, sft

STOP = 1
# One letter a token: template, user, assistant, stop token behind an answer; capitals are trained on.
_SOURCES = {"t": Source.TEMPLATE, "u": Source.USER, "a": Source.ASSISTANT, "s": Source.ASSISTANT, "e": Source.TEMPLATE}


def row(text: str) -> RenderedSample:
    """A row written as letters: `tuutAAS` is a prompt and an answer of two tokens with its stop token, trained on.

    `s` is a stop token that the assistant writes, `e` one that the template writes, `d` a document's token.
    """
    kinds = [_SOURCES.get(letter.lower(), Source.DOCUMENT) for letter in text]
    ids = [STOP if letter.lower() in "se" else 7 for letter in text]
    return RenderedSample(
        np.asarray(ids, np.int32), np.asarray(kinds, np.uint8), np.asarray([letter.isupper() for letter in text])
    )


def config(**changes: Any) -> SftConfig:
    return SftConfig.model_validate({"data": [{"source": "rows.jsonl"}], "steps": 1, **changes})


def judge(*texts: str, dropped: int = 0, **changes: Any) -> Any:
    rows = [row(text) for text in texts]
    ledger = Ledger(rows_in=len(rows) + dropped)
    for number in range(dropped):
        ledger.drop(f"row {number}", NOT_TRAINED, kind="empty")
    return check_mask("sft", rows, ledger, config(**changes), {STOP})


def test_the_figures_of_a_conversation_are_those_counted_by_hand() -> None:
    found = compute_mask_figures([row("tuutAAStuutAS"), row("tuutaastuutAS")], {STOP})
    assert (found.rows, found.tokens, found.trained, found.untrained_rows) == (2, 26, 7, 0)
    assert (found.others, found.answered, found.unstopped) == (0, 2, 0)


@pytest.mark.parametrize(
    "text",
    ["tuutAAS", "tuutAAStuutAS", "tuutaastuutAS", "TUUTAAET", "TUUTAATTE", "DDDD", "DDDE"],
    ids=["one turn", "two turns", "the last turn", "all of it", "all, with a call behind the words", "document", "end"],
)
def test_sound_masks_pass(text: str) -> None:
    train_on = "all" if text.startswith("TUU") else "assistant"
    assert judge(*[text] * 10, train_on=train_on).status == "passed"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tuutaas", "have no trained token"),
        ("Tuutaas", "have no trained token"),  # the first token has nothing that it could follow
        ("tuutAAs", "without a trained stop token"),
        ("tuutAA", "without a trained stop token"),
        ("tuutAAtuutAS", "without a trained stop token"),
        ("TUUTAA", "written by others than the assistant"),
        ("tUutAAS", "written by others than the assistant"),
    ],
)
def test_planted_masks_are_refused_with_what_is_wrong_and_the_template_to_blame(text: str, words: str) -> None:
    found = judge(*[text] * 10)
    assert found.status == "refused" and words in found.found
    assert "chat.template" in found.cure and "train_on" in found.cure


def test_a_few_rows_that_were_cut_before_their_stop_token_pass_and_many_do_not() -> None:
    few = judge(*["tuutAAS"] * 9, "tuutAA", truncation="cut_completion")
    many = judge(*["tuutAAS"] * 6, *["tuutAA"] * 4, truncation="cut_completion")
    assert few.status == "passed" and few.figures["unstopped_rows"] == 1
    assert many.status == "refused" and many.figures["unstopped_fraction"] == 0.4
    assert "raise max_length" in many.cure


def test_rows_that_were_dropped_because_nothing_in_them_is_trained_on_count() -> None:
    assert judge(*["tuutAAS"] * 500, dropped=1).status == "passed"
    found = judge(*["tuutAAS"] * 50, dropped=1)
    assert found.status == "refused" and "1 of 51 rows were dropped" in found.found


# ---- in a run


NO_STOP = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
SILENT = "{% for m in messages %}{% if m.role != 'assistant' %}{{ m.content }}{% endif %}{% endfor %}"


@pytest.mark.parametrize("template", [NO_STOP, SILENT])
def test_a_template_under_which_nothing_can_be_trained_on_stops_the_run_before_it_trains(
    workshop: Workshop, template: str
) -> None:
    """Bad rows are an error of the data at once, and where they are let through, nothing is left to train on."""
    (workshop.folder / "own.jinja").write_text(template)
    with pytest.raises(DataError, match="no stop token") as stopped:
        workshop.run(chat={"template": "own.jinja"})
    assert "chat.template: plain" in stopped.value.cure
    tolerant = sft(data=[{"source": "rows.jsonl", "max_bad_fraction": 1.0}])
    with pytest.raises(RefusedError, match="no row is left") as refused:
        workshop.run(tolerant, chat={"template": "own.jinja"})
    assert refused.value.place == "sft: mask" and "chat.template: plain" in refused.value.cure
    assert "--override" not in refused.value.cure  # nothing could be trained with it
    record = json.loads((workshop.folder / "run" / "run.json").read_text())
    assert [(f["name"], f["status"]) for f in record["preflight"]] == [("mask", "refused")]
    assert record["status"] == "refused" and record["stages"][0]["status"] == "pending"


def test_answers_that_are_all_cut_before_their_stop_token_are_refused_and_can_be_let_through(
    workshop: Workshop,
) -> None:
    rows = [{"prompt": f"{n}?", "completion": "so it is " * 9} for n in range(8)]
    (workshop.folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    cut = sft(max_length=40, truncation="cut_completion")
    with pytest.raises(RefusedError, match="in 8 of 8 rows") as refused:
        workshop.run(cut)
    assert "raise max_length" in refused.value.cure and "--override sft:mask" in refused.value.cure
    done = workshop.run(cut, checks=["sft:mask"])
    (found,) = (f for f in done.record["preflight"] if f["name"] == "mask")
    assert found["status"] == "overridden" and found["figures"]["unstopped_fraction"] == 1.0
