"""A conversation with a model: turns that are kept, and as many of them shown to it as its context holds."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from posttrain.core.config import suggest
from posttrain.core.durable import append_line
from posttrain.core.errors import DataError, RecipeError
from posttrain.core.records import Completion, Message, Problem
from posttrain.core.sampling import SamplingSettings
from posttrain.core.seeds import derive_seed
from posttrain.pipeline.talking import Talker

CHANGEABLE = ("max_new_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty")


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of a turn. Made by `Dialogue.ask`, shown by the command line.

    `completion` is None where the answer was stopped; `text` is what was shown by then. `turns_left_out`
    counts the oldest turns that the model was not shown. `transcript` are calls of tools and their replies before the
    text; `cut` says why an answer ended before the model was done. `is_kept` says whether the turn was remembered.
    """

    text: str
    completion: Completion | None
    turns_left_out: int
    transcript: tuple[Message, ...] = ()
    cut: str | None = None
    is_kept: bool = True


@dataclass(frozen=True, slots=True)
class _Turn:
    """What the user said, calls of tools and their replies, and the answer."""

    said: str
    answered: str
    transcript: tuple[Message, ...] = ()

    @property
    def messages(self) -> list[Message]:
        said = {"role": "user", "content": self.said}
        return [said, *self.transcript, {"role": "assistant", "content": self.answered}]


class Dialogue:
    """Keeps a conversation and asks a model for the next answer.

    Args:
        talker: The model.
        settings: How it draws; one sample at a time.
        seed: Answers are a function of it and of all that was said before.
        system: Instructions that stand before everything, if any.
    """

    def __init__(self, talker: Talker, settings: SamplingSettings, seed: int, system: str | None = None) -> None:
        self.talker = talker
        self.settings = settings
        self.system = system
        self._seed = seed
        self._num_asked = 0
        self._turns: list[_Turn] = []

    @property
    def num_turns(self) -> int:
        """How many turns are kept."""
        return len(self._turns)

    @property
    def messages(self) -> list[Message]:
        """Everything that was said, instructions first."""
        return [*self._instructions(), *(message for turn in self._turns for message in turn.messages)]

    def ask(
        self, text: str, show: Callable[[str], None], stoppable: AbstractContextManager[None] | None = None
    ) -> Reply:
        """Say something, show the answer piece by piece, and keep both; Ctrl-C stops the answer.

        One that was stopped is kept as far as it was shown, but forgotten where tools may have had a part in it.

        Args:
            text: What the user says.
            show: Given pieces of the answer.
            stoppable: Entered while the answer is drawn: lets Ctrl-C through where nothing else does.

        Raises:
            DataError: The message alone is too long for the model.
            TemplateError: The chat template refuses the conversation.
            SamplerError: The engine failed.
        """
        messages, turns_left_out, settings = self._fit(text)
        shown: list[str] = []

        def keep(piece: str) -> None:
            shown.append(piece)
            show(piece)

        seed = derive_seed(self._seed, "chat", self._num_asked)
        self._num_asked += 1
        attempt = None
        try:
            with stoppable or nullcontext():
                attempt = self.talker.attempt(Problem(f"turn:{self._num_asked}", messages), settings, seed, keep)
        except KeyboardInterrupt:
            if not "".join(shown):  # nothing was answered, so nothing was asked
                return Reply("", None, turns_left_out, is_kept=False)
        if attempt is None:
            answered = "".join(shown)
            is_kept = self.talker.environment is None  # what was shown may be what tools said
            if is_kept:
                self._turns.append(_Turn(text, answered))
            return Reply(answered, None, turns_left_out, is_kept=is_kept)
        answered, transcript = attempt.last.text, attempt.transcript
        self._turns.append(_Turn(text, answered, transcript))
        cut = None if attempt.verdict is None else attempt.verdict.why
        return Reply(answered, attempt.last, turns_left_out, transcript, cut)

    def reset(self) -> None:
        """Forget every turn; instructions and settings stay."""
        self._turns.clear()

    def undo(self) -> str | None:
        """Forget the last turn and return what the user had said in it, None if there is none."""
        return self._turns.pop().said if self._turns else None

    def save(self, path: Path) -> None:
        """Append the conversation to a file of JSON lines, as a row that can be trained on.

        Raises:
            DataError: Nothing was said yet.
            StorageError: The file cannot be written.
        """
        if not self._turns:
            raise DataError("nothing was said yet", expected="at least one turn", cure="say something", place="/save")
        row: dict[str, Any] = {
            "messages": self.messages,
            "policy_hash": self.talker.policy_hash,
            "settings": asdict(self.settings),
        }
        if self.talker.environment is not None:
            row["tools"] = [tool.schema for tool in self.talker.environment.tools.values()]
        append_line(path, json.dumps(row))

    def change(self, pairs: Sequence[str]) -> None:
        """Change settings by texts such as `temperature=0.7`; `none` turns one off.

        Raises:
            RecipeError: No such setting, or no such value.
        """
        kinds = {field.name: float if "float" in str(field.type) else int for field in fields(SamplingSettings)}
        changes: dict[str, Any] = {}
        for pair in pairs:
            name, separator, value = pair.partition("=")
            if not separator or name not in CHANGEABLE:
                raise RecipeError(
                    f"found {pair!r}",
                    expected=f"NAME=VALUE with one of {', '.join(CHANGEABLE)}",
                    cure=suggest(name, CHANGEABLE),
                    place="/settings",
                )
            try:
                changes[name] = None if value == "none" else kinds[name](value)
            except ValueError:
                raise RecipeError(f"{name} is {value!r}", expected="a number, or none", place="/settings") from None
        required = [name for name in ("max_new_tokens", "temperature") if name in changes and changes[name] is None]
        if required:
            raise RecipeError(f"{required[0]} is none", expected="a number", place="/settings")
        self.settings = replace(self.settings, **changes)

    def _instructions(self) -> list[Message]:
        return [] if self.system is None else [{"role": "system", "content": self.system}]

    def _fit(self, text: str) -> tuple[list[Message], int, SamplingSettings]:
        """Return the messages that the context holds beside an answer, the turns left out, and settings that fit.

        The oldest turns leave first. Where the last message alone leaves less room than `max_new_tokens`, the
        answer may be as long as what is left.
        """
        context, wanted = self.talker.context_tokens, self.settings.max_new_tokens
        room = wanted
        last: Message = {"role": "user", "content": text}
        for left_out in range(len(self._turns) + 1):
            kept = [message for turn in self._turns[left_out:] for message in turn.messages]
            messages = [*self._instructions(), *kept, last]
            if context is not None:
                room = context - self.talker.count_prompt_tokens(messages)
            if room >= wanted:
                return messages, left_out, self.settings
        if room < 1:
            raise DataError(
                f"the message and the instructions leave no room for an answer: {1 - room:,} tokens too many",
                expected=f"room for one token in the model's context of {context:,}",
                cure="say it in fewer words, or shorten the instructions (/system)",
                place="message",
            )
        return messages, left_out, replace(self.settings, max_new_tokens=room)
