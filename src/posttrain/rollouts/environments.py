"""What a policy acts in between its turns: tools that it may call, and bounds on how long that goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import Field

from posttrain.chat.call_schemas import find_schema_fault
from posttrain.chat.calls import Call, Syntax
from posttrain.chat.rendering import Renderer
from posttrain.chat.tool_turns import ToolTurn, find_call_syntax, read_turn
from posttrain.core.config import Config, suggest
from posttrain.core.errors import DataError, PosttrainError
from posttrain.core.records import Message, Observation, Problem
from posttrain.rollouts.tools import Tool, ToolBrokenError, ToolError

CUT_MARK = "... (cut)"
ERROR_MARK = "error: "


class EnvironmentSettings(Config):
    """The keys of an environment.

    `tools` are names, references or mappings with `type`; wiring reads them. `max_turns` counts what the policy says.
    """

    tools: list[str | dict[str, Any]] = Field(min_length=1)
    max_turns: int = Field(4, ge=1, le=64)
    max_observation_tokens: int = Field(1024, ge=1, description="of all that tools say in a rollout")
    max_result_characters: int = Field(2000, ge=len(CUT_MARK), le=1_000_000)


@dataclass(frozen=True, slots=True)
class ToolReplies:
    """What tools replied to a turn, as messages, one a call; `num_failed` of them are errors."""

    messages: tuple[Message, ...]
    num_failed: int


class Environment:
    """Answers a policy's calls.

    Args:
        tools: What may be called.
        settings: The bounds.
        renderer: Writes results into prompts; its template says how calls are written.
        content_hash: Names tools and bounds by content.
        context_tokens: The longest row that the policy takes, None for no limit.

    Raises:
        DataError: Two tools have one name.
        TemplateError: The template cannot show tools, or rewrites what was said before.
    """

    def __init__(
        self,
        tools: Sequence[Tool],
        settings: EnvironmentSettings,
        renderer: Renderer,
        *,
        content_hash: str = "",
        context_tokens: int | None = None,
    ) -> None:
        self.tools = {tool.name: tool for tool in tools}
        if len(self.tools) < len(tools):
            names = [tool.name for tool in tools]
            raise DataError(
                f"two tools are called '{next(name for name in names if names.count(name) > 1)}'",
                expected="a name of its own for each",
                cure="leave one out, or give it another name where its type takes one",
                place="environment: tools",
            )
        self.settings = settings
        self.content_hash = content_hash
        self.context_tokens = context_tokens
        self.syntax: Syntax = find_call_syntax(renderer)
        self._renderer = renderer

    def offer(self, problem: Problem) -> Problem:
        """Return a problem that offers tools: its own, where it has some, which must be among these; else all.

        Raises:
            DataError: It offers one that is not there.
        """
        if problem.tools is None:
            return replace(problem, tools=[tool.schema for tool in self.tools.values()])
        for name in _list_names(problem):
            if name not in self.tools:
                raise DataError(
                    f"the row offers the tool '{name}'",
                    expected=f"tools of its environment: {', '.join(self.tools)}",
                    cure=f"{suggest(name, self.tools)}; add it to environment.tools, or leave the row's 'tools' out",
                    place=problem.problem_id,
                )
        return problem

    def read_turn(self, text: str) -> ToolTurn | None:
        """Return what a turn calls, None where it calls nothing."""
        return read_turn(text, self.syntax)

    def answer(self, problem: Problem, turn: ToolTurn) -> ToolReplies:
        """Run the calls of a turn, one after another, and return what came of each; errors are replies too.

        Raises:
            ToolBrokenError: The harness failed.
            PosttrainError: Nothing can be run at all (no sandbox, say).
        """
        if turn.fault is not None:
            return ToolReplies((self._write_reply("tool_call", f"{ERROR_MARK}{turn.fault}"),), 1)
        offered = {name: self.tools[name].schema["function"] for name in _list_names(problem)}
        messages, num_failed = [], 0
        for call in turn.calls:
            try:
                text = self._run(call, offered)
            except ToolError as error:
                text, num_failed = f"{ERROR_MARK}{error}", num_failed + 1
            messages.append(self._write_reply(call.name, text))
        return ToolReplies(tuple(messages), num_failed)

    def observe(self, answered: Sequence[tuple[Problem, ToolReplies]]) -> list[Observation]:
        """Return what the policy sees of replies, in order."""
        rendered = self._renderer.render_observations(
            [(problem.messages, problem.tools, replies.messages) for problem, replies in answered]
        )
        return [
            Observation(ids, replies.messages, replies.num_failed)
            for ids, (_, replies) in zip(rendered, answered, strict=True)
        ]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""
        return self._renderer.tokenizer.decode(ids)

    def _run(self, call: Call, offered: dict[str, Any]) -> str:
        if call.name not in offered:
            raise ToolError(f"there is no tool {call.name[:60]!r}; there is {', '.join(offered)}")
        fault = find_schema_fault(call, offered)
        if fault is not None:
            raise ToolError(fault)
        try:
            return self.tools[call.name].run(call.arguments)
        except (PosttrainError, ToolBrokenError, ToolError):
            raise
        except Exception as error:
            raise ToolError(f"{type(error).__name__}: {error}") from error

    def _write_reply(self, name: str, text: str) -> Message:
        most = self.settings.max_result_characters
        shown = text if len(text) <= most else text[: most - len(CUT_MARK)] + CUT_MARK
        # A lone surrogate has no tokens; what a program prints may hold one.
        return {"role": "tool", "name": name, "content": shown.encode("utf-8", "replace").decode("utf-8")}


def _list_names(problem: Problem) -> list[str]:
    return [str(entry.get("function", entry).get("name")) for entry in problem.tools or ()]
