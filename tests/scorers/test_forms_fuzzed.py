"""No text makes a form scorer raise or blame the harness: half surrogates, null bytes, every plane, long runs."""

import math
import random

import pytest

from posttrain.scorers.exact_match import ExactMatch
from posttrain.scorers.instructions import InstructionFollowing
from posttrain.scorers.personal_data import PersonalData
from posttrain.scorers.refusals import Refusals
from posttrain.scorers.shaping import CosineLength, LanguageMatch, LengthBand, Repetition
from posttrain.scorers.structure import Structure
from posttrain.scorers.tool_calls import ToolCalls
from tests.scorers.form_items import build_item
from tests.scorers.test_instruction_checks import CASES
from tests.scorers.test_structure import OWN_CASES

PIECES = [
    "\ud800", "\udfff", "\x00", "\u0000\u0300", "\u202e", "\ufeff", "\U0010ffff", "\U0001f468\u200d\U0001f469",
    "ẞ", "ﬃ", "İ", "<think>", "</think>", "<answer>", "</answer>", "<tool_call>", "</tool_call>", "{", "}", "[", "]",
    '"', "\\", "'", "f(a=", ")", "```", "***", "******", "<<", ">>", "* ", "- ", "\n\n", "\r\n", "\x85", "\u2028",
    "1e999", "9" * 25, "NaN", "a@b.co", "I cannot help. ", "P.S. ", "Das ist ein Satz. ", "你好。", "https://", "eyJ",
    "+1 ", "%s", "\x1b[0m",
]  # fmt: skip
FUNCTIONS = {"function": [{"name": "f", "parameters": {"properties": {"a": {"type": "any"}}}}]}


def list_texts(count):
    generator = random.Random(0)
    return ["".join(generator.choices(PIECES, k=generator.randint(1, 40))) for _ in range(count)] + PIECES


SCORERS = {
    "instructions": (
        InstructionFollowing(),
        {"instruction_id_list": [case[0] for case in CASES], "kwargs": [case[1] for case in CASES]},
    ),
    "tool_calls": (ToolCalls(allows_fence=True, allows_text=True), {**FUNCTIONS, "ground_truth": [{"f": {"a": [1]}}]}),
    "no_call": (ToolCalls(), {**FUNCTIONS, "ground_truth": [], "language": "java"}),
    "valid_calls": (ToolCalls(mode="valid"), {**FUNCTIONS, "language": "javascript"}),
    "refusals": (Refusals(), {}),
    "personal_data": (PersonalData(phone_region="DE"), {}),
    "length": (LengthBand(low=1, high=5, unit="words"), {}),
    "cosine": (CosineLength(correctness=ExactMatch(), max_length=50, unit="characters"), {"answer": "x"}),
    "language": (LanguageMatch(language="de", by_paragraph=True), {}),
    "repetition": (Repetition(), {}),
    **{f"structure {n}": (Structure(), rule) for n, rule in enumerate({str(r): r for r, _, _ in OWN_CASES}.values())},
}


@pytest.mark.parametrize("name", SCORERS)
def test_no_text_makes_a_scorer_raise_or_blame_the_harness(name):
    if name == "personal_data":
        pytest.importorskip("detect_secrets", reason="the extra privacy is not installed")
    scorer, columns = SCORERS[name]
    outcomes = scorer.score([build_item(text, columns) for text in list_texts(150)])
    assert [outcome for outcome in outcomes if outcome.fault == "harness" or not math.isfinite(outcome.value)] == []
    assert all(outcome.why for outcome in outcomes)
