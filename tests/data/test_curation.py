"""Curation: each filter by hand, which of two is kept, and that every row is accounted for once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from posttrain.core.config import parse_config
from posttrain.core.errors import RecipeError
from posttrain.core.records import Example
from posttrain.data import near_duplicates
from posttrain.data.contamination_index import ContaminationIndex
from posttrain.data.curated_text import CuratedText, read_curated_text
from posttrain.data.curation import Curation, Judged
from posttrain.data.curation_settings import CurationSettings
from posttrain.data.diversity_selection import build_vectors, choose_diverse, count_terms
from posttrain.data.evaluation_items import EvaluationItem
from posttrain.data.format_rules import FORMAT_RULES
from posttrain.data.near_duplicates import compute_jaccard, find_near_duplicates, sign_text
from posttrain.data.quality_rules import judge_quality
from posttrain.data.row_filters import build_row_filters, find_refusal

GOOD = "A river carries water from the hills to the sea, and its banks are home to many birds and plants."
LONG = f"{GOOD} {GOOD.replace('river', 'stream')} It is fed by rain, by snow, and by springs that rise below the ground"


def row(prompt: str, answer: str, number: int = 1) -> Example:
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return Example(f"rows:{number}", "messages", messages=messages)


def text(prompt: str, answer: str) -> CuratedText:
    return read_curated_text(row(prompt, answer))


def no_repetition(units: Any, n: int) -> float:
    return 0.0


def curate(
    rows: list[Example], index: ContaminationIndex | None = None, **values: Any
) -> tuple[list[str], dict[str, str]]:
    settings = parse_config(CurationSettings, {"min_quality": None, **values}, place="curate")
    filters = build_row_filters(settings, measure_repetition=no_repetition, detect_languages=lambda text: {"de": 0.99})
    curation = Curation(settings, filters, index)
    curation.judge(list(enumerate(rows)))
    kept = curation.compare()
    assert len(kept) + len(curation.dropped) == len(rows)
    return [judged.row_id for judged in kept], {found.row_id: found.reason for found in curation.dropped}


@pytest.mark.parametrize(
    ("rule", "prompt", "answer"),
    [
        ("empty", "Hi", " ...\n"),
        ("empty", "?", "Yes."),
        ("truncated", "Tell me about rivers.", f"{LONG}, and"),
        ("code fence", "Show me.", "```python\nprint(1)\n"),
        ("placeholder", "Write to me.", "Dear {{ first_name }}, thank you."),
        ("placeholder", "Write to me.", "Dear [INSERT NAME], thank you."),
        ("role leak", "2 + 2?", "4\nUser: and 3 + 3?"),
        ("role leak", "2 + 2?", "4<|im_end|>"),
        ("html debris", "Rivers?", "They flow.<br />They are&nbsp;long."),
    ],
)
def test_each_fault_of_form_is_found_by_its_rule_alone(rule: str, prompt: str, answer: str) -> None:
    found = [name for name, find in FORMAT_RULES.items() if find(text(prompt, answer))]
    assert found == [rule]


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("2 + 2?", "4"),
        ("Rivers?", LONG + "."),
        ("Server?", f"{LONG} so run it.\n\napp.listen(port, () => {{\n  log(port);\n}});"),
        ("Show me.", "```html\n<br> {{name}} User: x\n```"),
        ("How do I break a line in HTML?", "Write <br /> there."),
        ("Who said it?", "The user: a man of few words."),
        ("Name a set.", "{1, 2}"),
    ],
)
def test_sound_answers_have_no_fault_of_form(prompt: str, answer: str) -> None:
    assert [name for name, find in FORMAT_RULES.items() if find(text(prompt, answer))] == []


@pytest.mark.parametrize(
    ("answer", "is_refusal"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("As an AI, I have no body.", True),
        ("As an AI language model I have none.", True),
        ("I'm an AI assistant trained by some people.", True),
        ("I\u2019m an AI.", True),
        ("As a language model, I have read of rivers.", True),
        ("As an AI researcher would tell you, rivers are wet.", False),
        ("As an AI model trainer knows, rivers are wet.", False),
        ("As an AI-based tool shows, rivers are wet.", False),
        ("As an aid to memory, rivers are drawn in blue.", False),
        ("I couldn't help but smile at the sight of it.", False),
        (GOOD, False),
    ],
)
def test_refusals_are_told_from_idioms(answer: str, is_refusal: bool) -> None:
    assert bool(find_refusal(text("Tell me.", answer))) is is_refusal


def test_quality_by_hand() -> None:
    """1 word of 3 asked for: substance 1/3; every other part is 1."""
    quality = judge_quality(text("Name a colour.", "Red."))
    assert quality.parts["substance"] == pytest.approx(1 / 3)
    assert quality.score == pytest.approx((1 / 3 + 5) / 6)
    echo = judge_quality(text("Tell me why the sky is blue today", "Tell me why the sky is blue today"))
    assert echo.parts["own_words"] == 0.0 and echo.parts["ending"] == 0.5
    assert judge_quality(text("Speak", "NO NO NO NO NO NO NO NO")).parts["case"] == 0.0
    assert judge_quality(text("Speak", "no no no no no no no no")).parts["variety"] == pytest.approx(0.25)


def test_jaccard_of_runs_by_hand() -> None:
    """Runs of two: {ab, bc, cd} and {ab, bc, ce} share 2 of 4."""

    def compare(one: str, other: str, size: int) -> float:
        return compute_jaccard(sign_text(one, size).shingles_S, sign_text(other, size).shingles_S)

    assert compare("a b c d", "a b c e", 2) == 0.5
    assert compare("A, b!", "a b", 5) == 1.0
    assert compare("", "a", 2) == 0.0


def test_of_near_duplicates_the_best_is_kept_and_no_chain_drops_a_row_that_is_near_to_none() -> None:
    words = [f"w{number}" for number in range(60)]
    changed = [*words[:57], "x", "y", "z"]  # runs of 3: 55 of 58 shared, 61 in all: 0.90
    far = [*changed[3:], "p", "q", "r"]  # 0.90 to the one before, 52 of 64 to the first: 0.81
    signatures = [sign_text(" ".join(part), 3) for part in (words, changed, far)]
    found = find_near_duplicates(signatures, [0, 1, 2], 0.85)
    assert {dropped: kept for dropped, (kept, _) in found.items()} == {1: 0}
    assert found[1][1] == pytest.approx(55 / 61)
    assert {k: v[0] for k, v in find_near_duplicates(signatures, [1, 0, 2], 0.85).items()} == {0: 1, 2: 1}


def count_comparisons(monkeypatch: pytest.MonkeyPatch, count: int) -> tuple[int, int]:
    """Return how many pairs of `count` rows of one template are compared, and how many rows are dropped."""
    compared = 0
    compute = near_duplicates.compute_jaccard

    def compute_counted(a_S: Any, b_S: Any) -> float:
        nonlocal compared
        compared += 1
        return compute(a_S, b_S)

    template = "You are given a task with its input, read it with care and answer in one word alone: the input is"
    # Each third number stands twice: a copy of another row, which is near.
    numbers = [number - (number % 3 == 2) for number in range(count)]
    signatures = [sign_text(f"{template} x{n} y{n} z{n}", 3) for n in numbers]
    with monkeypatch.context() as patched:
        patched.setattr(near_duplicates, "compute_jaccard", compute_counted)
        found = find_near_duplicates(signatures, range(count), 0.7)
    return compared, len(found)


def test_rows_that_share_a_template_are_not_near_by_it_and_comparisons_grow_with_the_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """19 runs are the template's and 3 a row's own: with the template's the index of two rows is 19 / 25, above 0.7.

    A copy is compared by own runs and by all of them: two indices for each.
    """
    small, dropped_small = count_comparisons(monkeypatch, 150)
    large, dropped_large = count_comparisons(monkeypatch, 600)
    assert (dropped_small, dropped_large) == (50, 200)
    assert small == 2 * 50 and large == 2 * 200


def test_what_few_rows_share_is_their_own_and_rows_of_shared_runs_alone_are_near_where_they_are_the_same() -> None:
    few = [sign_text(f"{GOOD} {n}", 3) for n in range(20)]
    assert len(find_near_duplicates(few, range(20), 0.7)) == 19
    many = [sign_text(GOOD, 3) for _ in range(50)]
    assert len(find_near_duplicates(many, range(50), 0.7)) == 49


def test_rows_that_differ_in_the_rejected_answer_the_label_or_the_tools_are_other_rows() -> None:
    user = [{"role": "user", "content": "Tell me of rivers."}]
    good, bad = [[{"role": "assistant", "content": content}] for content in (GOOD, "They are wet, and that is all.")]
    other = [{"role": "assistant", "content": "A river is a kind of fish that swims in the sky."}]
    shouted = [{"role": "assistant", "content": "THEY are wet, and  that is all."}]
    near = [{"role": "assistant", "content": "They are wet, and that is all!!"}]
    tools = [{"type": "function", "function": {"name": "look_up"}}]
    rows = [
        Example("pair:1", "preference", messages=user, chosen=good, rejected=bad),
        Example("pair:2", "preference", messages=user, chosen=good, rejected=other),
        Example("pair:3", "preference", messages=user, chosen=good, rejected=shouted),
        Example("pair:4", "preference", messages=user, chosen=good, rejected=near),
        Example("kto:1", "unpaired", messages=user + good, label=True),
        Example("kto:2", "unpaired", messages=user + good, label=False),
        Example("kto:3", "unpaired", messages=user + good, label=False),
        Example("chat:1", "messages", messages=user + good),
        Example("chat:2", "messages", messages=user + good, tools=tools),
    ]
    kept, dropped = curate(rows)
    assert dropped == {"pair:3": "duplicate", "pair:4": "near duplicate", "kto:3": "duplicate"}
    assert len(kept) == 6 and curate(rows, near=None)[1] == {"pair:3": "duplicate", "kto:3": "duplicate"}


def test_rows_are_dropped_under_the_first_reason_that_strikes_them() -> None:
    item = EvaluationItem("test:1", "How many eggs do the seven ducks of Janet lay in a week?")
    rows = [
        row("Tell me of rivers.", GOOD, 1),
        row("Tell me  of RIVERS.", GOOD.upper(), 2),
        row("Tell me of rivers.", GOOD.replace("many", "some"), 3),
        row("How many eggs do the 7 ducks of Janet lay in a week?", "49", 4),
        row("And?", "```\n", 5),
        row("Help me.", "I'm sorry, but I can't help with that.", 6),
        row("Name a colour.", "Red.", 7),
    ]
    kept, dropped = curate(rows, ContaminationIndex([item]))
    assert dropped == {
        "rows:2": "duplicate",
        "rows:3": "near duplicate",
        "rows:4": "contaminated",
        "rows:5": "empty",
        "rows:6": "refusal",
    }
    assert kept == ["rows:1", "rows:7"]
    everything, nothing = curate(
        rows, exact=False, near=None, formats=[], refusals=False, lengths=[], contamination=None
    )
    assert len(everything) == 7 and nothing == {}


def test_bounds_and_languages_are_held_against_the_part_they_name() -> None:
    rows = [row("Tell me of rivers, please.", GOOD, 1), row("Rivers?", "Wet.", 2)]
    bound = {"of": "answer", "unit": "words", "at_least": 2}
    assert curate(rows, lengths=[bound])[1] == {"rows:2": "answer length"}
    assert curate(rows, lengths=[{"of": "prompt", "unit": "characters", "at_most": 10}])[1] == {
        "rows:1": "prompt length"
    }
    assert curate(rows, languages=["en"])[1] == {"rows:1": "language"}  # the other is too short to tell
    assert curate(rows, languages=["de"])[1] == {}
    code = row("Bitte schreibe ein Programm, das diese Zahlen alle zusammenzählt.", "x = f(a, b); print(x[0]) " * 4, 3)
    assert curate([code], languages=["de"])[1] == {} and curate([code], languages=["en"])[1] == {"rows:3": "language"}
    assert curate([row("Do it now.", "x = f(a, b); print(x[0]) " * 4)], languages=["en"])[1] == {}
    assert curate([*rows, row("Say more about it all.", "no no no no", 3)], min_quality=0.8)[1] == {"rows:3": "quality"}


@pytest.mark.parametrize(
    "values",
    [
        {"near": 0.0},
        {"keep": 0},
        {"lengths": [{"of": "answer", "at_least": 5, "at_most": 2}]},
        {"band": {"low": 0.9, "high": 0.1}},
        {"formats": ["nice"]},
    ],
)
def test_settings_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=next(iter(values))):
        parse_config(CurationSettings, values, place="curate")


def test_a_band_keeps_what_lies_between_two_quantiles() -> None:
    """Of the values 0 to 10 the quantiles 0.2 and 0.9 are 2 and 9; a row without a value is dropped."""
    rows = [row(f"Question {number}?", f"Answer {number * 7} of {GOOD[number:]}", number) for number in range(12)]
    values = {"near": None, "exact": False, "min_quality": None, "band": {"low": 0.2, "high": 0.9}}
    settings = parse_config(CurationSettings, values, place="curate")
    curation = Curation(settings, [], values=lambda texts: [float(n) if n < 11 else None for n in range(len(texts))])
    curation.judge(list(enumerate(rows)))
    assert [judged.number for judged in curation.compare()] == list(range(2, 10))
    assert curation.dropped[-1].detail.startswith("no value")


def test_diverse_rows_are_chosen_by_hand() -> None:
    """The best first; then the unlike one, though a copy of the best has more quality; then the copy."""
    vectors = build_vectors([count_terms(part) for part in ("red hats", "red hats", "blue whales sing")])
    qualities = [0.9, 0.8, 0.3]
    assert choose_diverse(vectors, qualities, 2) == [0, 2]
    assert choose_diverse(vectors, qualities, 9) == [0, 2, 1]
    norms = np.sqrt(vectors.multiply(vectors).sum(axis=1))
    assert norms == pytest.approx(np.ones((3, 1)), abs=1e-6)


def test_without_quality_the_choice_spreads_and_with_a_large_weight_it_takes_the_best() -> None:
    parts = ["a b c", "a b d", "x y z", "x y w"]
    vectors = build_vectors([count_terms(part) for part in parts])
    assert choose_diverse(vectors, [0.5, 0.9, 0.1, 0.1], 2, quality_weight=0.0) == [0, 2]
    assert choose_diverse(vectors, [0.5, 0.9, 0.1, 0.1], 2, quality_weight=10.0) == [1, 0]


def test_a_budget_drops_what_is_not_chosen() -> None:
    rows = [row(f"Tell me of {name}.", f"{name} {GOOD[9 * n :]}", n) for n, name in enumerate(("ants", "bees", "cows"))]
    kept, dropped = curate(rows, keep=2, near=None)
    assert len(kept) == 2 and list(dropped.values()) == ["not chosen"]


def test_a_row_that_is_judged_keeps_no_text() -> None:
    assert {"number", "row_id", "content", "quality", "words", "signature", "terms", "value"} == set(
        Judged.__dataclass_fields__
    )
