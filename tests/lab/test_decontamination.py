"""Nothing that is held back stands in a training text, by the project's own search.

The search finds a short question also in a longer one that begins with it (`Reverse the list: cow ship` in
`Reverse the list: cow ship red`), and the subject of a request under another instruction. Those it finds are looked at
here, and none may be the whole question. Questions of one template told of other numbers or names share n-grams by
their making, so that kind of match says nothing here.
"""

from __future__ import annotations

import itertools
import re

import pytest

from posttrain.core.records import Example
from posttrain.data.contamination_index import ContaminationIndex, ContaminationSettings
from posttrain.data.decontamination import find_contamination
from posttrain.data.evaluation_items import read_item, read_training_text
from posttrain.data.schemas import read_example
from posttrain.data.sources import DataSource
from posttrain.lab.lexicon import WORDS
from posttrain.lab.source import ROW_SETS, lab_rows
from posttrain.lab.tasks import GROUPS

TRAINED = {"documents": 12_000, "conversations": 8_000, "expert": 2_000, "crowd": 2_000, "preferences": 2_000}
HELD_BACK = ("development", "held_out", "final", "perturbed")


def examples(name: str, split: str, count: int) -> list[Example]:
    source = DataSource(source=f"lab:{name}", split=split)
    rows = itertools.islice(lab_rows(name, split), count)
    return [read_example(row, source, f"{name}:{split}:{number}") for number, row in enumerate(rows, 1)]


@pytest.fixture(scope="module")
def trained() -> list[Example]:
    return [example for name, count in TRAINED.items() for example in examples(name, "train", count)]


def is_asked(example: Example, question: str) -> bool:
    """Whether a whole question stands in a row and ends there: no further word of a list or step of a program."""
    texts = [example.text, *(str(m["content"]) for m in [*example.messages, *example.chosen, *example.rejected])]
    goes_on = re.compile(rf" (?:and then|{'|'.join(WORDS)})\b")
    found = [match for text in texts for match in re.finditer(re.escape(question.rstrip("?.")), text)]
    return any(not goes_on.match(match.string[match.end() :]) for match in found)


@pytest.mark.parametrize(
    "split", [pytest.param(one, marks=[] if one == "held_out" else [pytest.mark.invariants]) for one in HELD_BACK]
)
def test_no_question_that_is_held_back_is_asked_or_answered_in_training(trained: list[Example], split: str) -> None:
    held = [example for group in GROUPS for example in examples(group, split, ROW_SETS[group].num_rows[split])]
    index = ContaminationIndex(map(read_item, held), ContaminationSettings(min_words=3))
    report = find_contamination(index, map(read_training_text, trained))
    assert report.searched["key"] > 100
    assert (report.counts["key"], report.counts["answered"]) == (0, 0), report.items[:3]
    rows = {example.row_id: example for example in trained}
    asked = {example.row_id: str(example.messages[-1]["content"]) for example in held}
    for item in report.items:
        whole = item.matches.get("whole")
        for row_id in whole.row_ids if whole else ():
            assert not is_asked(rows[row_id], asked[item.item_id]), (item, rows[row_id])
