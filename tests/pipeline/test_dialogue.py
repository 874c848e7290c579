"""A conversation: what is kept, what the model is shown of it, and what a stop leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posttrain.core.errors import DataError, RecipeError
from posttrain.core.records import Completion, Message, Problem
from posttrain.core.sampling import SamplingSettings
from posttrain.data.examples import load_examples
from posttrain.data.sources import DataSource
from posttrain.pipeline.dialogue import Dialogue
from posttrain.pipeline.talking import ModelChoice, open_talker
from posttrain.rollouts.attempts import Attempt


class Echo:
    """A model that repeats the last message in two pieces; a token is a character."""

    policy_hash = "echo"
    environment = None

    def __init__(self, context_tokens: int | None = None) -> None:
        self.context_tokens = context_tokens
        self.asked: list[tuple[list[str], int, int]] = []
        self.interrupt_after: int | None = None

    def count_prompt_tokens(self, messages: Sequence[Message]) -> int:
        return sum(len(message["content"]) for message in messages)

    def attempt(self, problem: Problem, settings: SamplingSettings, seed: int, show: Callable[[str], None]) -> Attempt:
        texts = [message["content"] for message in problem.messages]
        self.asked.append((texts, settings.max_new_tokens, seed))
        for number, piece in enumerate((texts[-1][:1], texts[-1][1:])):
            if number == self.interrupt_after:
                raise KeyboardInterrupt
            show(piece)
        empty: Any = np.array([], dtype=np.int32)
        return Attempt((Completion("t", 0, empty, empty, texts[-1], "stop", "echo", seed),))


def talk(context_tokens: int | None = None, max_new_tokens: int = 10, **changes: Any) -> tuple[Dialogue, Echo]:
    echo: Any = Echo(context_tokens)
    return Dialogue(echo, SamplingSettings(max_new_tokens, temperature=1.0), 0, **changes), echo


def silent(piece: str) -> None:
    """Show nothing."""


def test_every_turn_is_shown_the_turns_before_it_and_draws_with_a_seed_of_its_own() -> None:
    dialogue, echo = talk(system="sys")
    shown: list[str] = []
    for text in ("one", "two", "one"):
        assert dialogue.ask(text, shown.append).text == text
    assert "".join(shown) == "onetwoone"
    assert [asked[0] for asked in echo.asked] == [
        ["sys", "one"], ["sys", "one", "one", "two"], ["sys", "one", "one", "two", "two", "one"]
    ]  # fmt: skip
    assert len({asked[2] for asked in echo.asked}) == 3
    dialogue.reset()
    dialogue.system = None
    dialogue.ask("new", silent)
    assert echo.asked[-1][0] == ["new"]


def test_the_oldest_turns_leave_when_the_context_is_full_and_come_back_when_there_is_room() -> None:
    dialogue, echo = talk(context_tokens=30, max_new_tokens=10, system="sys")
    assert [dialogue.ask(text, silent).turns_left_out for text in ("aaaa", "bbbb", "cccc")] == [0, 0, 1]
    assert echo.asked[-1][0] == ["sys", "bbbb", "bbbb", "cccc"] and dialogue.num_turns == 3
    assert dialogue.undo() == "cccc"
    assert dialogue.ask("c", silent).turns_left_out == 0
    assert echo.asked[-1][0] == ["sys", "aaaa", "aaaa", "bbbb", "bbbb", "c"]


def test_a_long_message_gets_a_shorter_answer_and_one_too_long_is_refused() -> None:
    dialogue, echo = talk(context_tokens=30, max_new_tokens=10)
    dialogue.ask("a", silent)
    assert dialogue.ask("b" * 27, silent).turns_left_out == 1
    assert echo.asked[-1][:2] == (["b" * 27], 3)
    with pytest.raises(DataError, match="1 tokens too many"):
        dialogue.ask("c" * 30, silent)
    assert dialogue.num_turns == 2


def test_a_stopped_answer_is_kept_and_one_stopped_before_it_began_is_forgotten() -> None:
    dialogue, echo = talk()
    echo.interrupt_after = 1
    reply = dialogue.ask("hello", silent)
    assert (reply.text, reply.completion) == ("h", None)
    assert [message["content"] for message in dialogue.messages] == ["hello", "h"]
    echo.interrupt_after = 0
    assert dialogue.ask("again", silent).text == ""
    assert dialogue.num_turns == 1 and dialogue.undo() == "hello" and dialogue.undo() is None


def test_a_saved_conversation_is_a_row_that_can_be_trained_on(tmp_path: Path) -> None:
    dialogue, _ = talk(system="sys")
    path = tmp_path / "chats.jsonl"
    with pytest.raises(DataError, match="nothing was said"):
        dialogue.save(path)
    dialogue.ask("é\u2028", silent)
    dialogue.save(path)
    dialogue.ask("two", silent)
    dialogue.save(path)
    examples, _ = load_examples([DataSource(source=str(path))], root=tmp_path)
    assert examples[1].messages == dialogue.messages and len(examples[0].messages) == 3
    assert json.loads(path.read_text().splitlines()[0])["policy_hash"] == "echo"


def test_settings_are_changed_by_name_and_contradictions_change_nothing() -> None:
    dialogue, _ = talk()
    dialogue.change(["temperature=0.5", "top_k=7"])
    assert (dialogue.settings.temperature, dialogue.settings.top_k) == (0.5, 7)
    dialogue.change(["top_k=none"])
    assert dialogue.settings.top_k is None
    before = dialogue.settings
    for pair, words in (
        ("temprature=1", "found"), ("top_k=many", "many"), ("temperature", "found"), ("temperature=none", "none"),
        ("max_new_tokens=0", "max_new_tokens"), ("num_samples=3", "found"), ("temperature=nan", "temperature"),
    ):  # fmt: skip
        with pytest.raises(RecipeError, match=words):
            dialogue.change([pair])
    with pytest.raises(RecipeError, match="top_p"):
        dialogue.change(["temperature=0", "top_p=0.5"])
    assert dialogue.settings == before


def test_a_conversation_with_a_model_goes_on_past_its_context(tiny_base: Path) -> None:
    with open_talker(ModelChoice(str(tiny_base))) as talker:
        dialogue = Dialogue(talker, SamplingSettings(60, temperature=1.0), 0, "s")
        left_out = [dialogue.ask("x" * 50, silent).turns_left_out for _ in range(5)]
    assert left_out[0] == 0 and left_out[-1] >= 2 and dialogue.num_turns == 5
