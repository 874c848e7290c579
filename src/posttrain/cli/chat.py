"""`posttrain chat`: a conversation with a model in the terminal."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from posttrain.cli.options import (
    CacheOption,
    DeviceOption,
    GreedyOption,
    IgnoreEosOption,
    JsonOption,
    MaxNewTokensOption,
    MinPOption,
    ModelArgument,
    PenaltyOption,
    PrecisionOption,
    RegexOption,
    SchemaFileOption,
    SeedOption,
    StopOption,
    SystemOption,
    TemperatureOption,
    TopKOption,
    TopPOption,
    UnsafeOption,
    show_example,
)

if TYPE_CHECKING:
    from posttrain.cli.stopping import InterruptGate
    from posttrain.pipeline.dialogue import Dialogue, Reply
    from posttrain.pipeline.talking import Talker

EXAMPLE = show_example(
    "posttrain chat Qwen/Qwen2.5-0.5B-Instruct",
    'posttrain chat runs/demo/artifacts/0123456789abcdef0123456789abcdef --system "Answer in one word."',
    "posttrain chat runs/demo/artifacts/0123456789abcdef0123456789abcdef --tools lab:tools",
)
ToolsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--tools",
        metavar="NAME",
        help="A tool that the model may call: calculator, python, lab:tools, or file.py:name; may be given again.",
    ),
]
MaxTurnsOption = Annotated[
    int, typer.Option("--max-turns", min=1, max=64, help="Turns that the model may take in one answer, with --tools.")
]
COMMANDS = {
    "/help": "list the commands",
    "/reset": "forget every turn",
    "/system TEXT": "instructions before everything; without TEXT none",
    "/undo": "forget the last turn",
    "/settings NAME=VALUE ...": "show the settings, or change some of them",
    "/save FILE": "append the conversation to a file of JSON lines, as a row that can be trained on",
    "/quit": "leave; so does Ctrl-D. Ctrl-C stops an answer and keeps the conversation",
}


# many parameters: each is an option of the verb
def chat(
    model: ModelArgument,
    system: SystemOption = None,
    max_new_tokens: MaxNewTokensOption = 256,
    temperature: TemperatureOption = None,
    greedy: GreedyOption = False,
    top_p: TopPOption = None,
    top_k: TopKOption = None,
    min_p: MinPOption = None,
    repetition_penalty: PenaltyOption = None,
    seed: SeedOption = 0,
    stop: StopOption = None,
    ignore_eos: IgnoreEosOption = False,
    json_schema: SchemaFileOption = None,
    regex: RegexOption = None,
    dtype: PrecisionOption = "auto",
    device: DeviceOption = None,
    cache_gb: CacheOption = None,
    tools: ToolsOption = None,
    max_turns: MaxTurnsOption = 8,
    unsafe: UnsafeOption = False,
    json: JsonOption = False,
) -> None:
    """Talk with a model in the terminal.

    Answers are shown while they are drawn; /help lists the commands. Where the input is no terminal, each
    line of it is a turn, and the first error ends the command. With --json each answer is a line of JSON.
    With --tools the model may call them; what they reply is shown in brackets.
    """
    from posttrain.pipeline.sampling_arguments import SamplingArguments, build_settings

    settings = build_settings(
        SamplingArguments(
            max_new_tokens, temperature, greedy, top_p, top_k, min_p, repetition_penalty,
            stop_strings=stop or (), ignore_eos=ignore_eos, json_schema=json_schema, regex=regex,
        )
    )  # fmt: skip
    from posttrain.pipeline.dialogue import Dialogue  # heavy: bad settings are refused before it is imported
    from posttrain.pipeline.talking import ModelChoice, open_talker

    choice = ModelChoice(
        model, dtype, device, cache_gb=cache_gb, tools=tools or (), max_turns=max_turns, allow_unsafe=unsafe
    )
    if tools:
        from posttrain.rollouts.attempts import check_stop_strings

        check_stop_strings(stop or ())
    with open_talker(choice) as talker:
        greet(talker, model)
        converse(Dialogue(talker, settings, seed, system), is_json=json)


def greet(talker: Talker, model: str) -> None:
    """Say on standard error who answers."""
    from posttrain.cli.output import print_lines

    context = "" if talker.context_tokens is None else f", {talker.context_tokens:,} tokens of context"
    print_lines(f"{model}: policy {talker.policy_hash[:12]}, {talker.dtype}{context}", file=sys.stderr)
    print_lines(*(f"note: {note}" for note in talker.notes), file=sys.stderr)
    if is_interactive():
        print_lines("/help lists the commands; Ctrl-D leaves", file=sys.stderr)


def is_interactive() -> bool:
    """Return whether a person types and reads."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def converse(dialogue: Dialogue, *, is_json: bool) -> None:
    """Answer line after line, until there is none or the user leaves."""
    if not is_interactive():
        for line in read_lines():
            if not take_line(dialogue, line, is_json=is_json):
                return
        return
    from posttrain.cli.output import print_error
    from posttrain.cli.stopping import InterruptGate
    from posttrain.core.errors import PosttrainError

    with InterruptGate() as gate:
        for line in type_lines(gate):
            try:
                if not take_line(dialogue, line, is_json=is_json, gate=gate):
                    return
            except PosttrainError as error:  # a person can say it otherwise
                print_error(error, is_json=is_json)


def read_lines() -> Iterator[str]:
    """Yield the lines of standard input that are not blank."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    for line in sys.stdin:
        if line.strip():
            yield line.strip()


def type_lines(gate: InterruptGate) -> Iterator[str]:
    """Yield lines that are typed at a prompt and are not blank; Ctrl-C drops the line, Ctrl-D ends them."""
    from posttrain.cli.output import print_lines

    with suppress(ImportError):  # without it the terminal's own editing is used
        import readline  # noqa: F401  # gives `input` its line editing
    while True:
        try:
            with gate.open():
                line = input("> ").strip()
        except EOFError:
            print_lines("")
            return
        except KeyboardInterrupt:
            print_lines("", "(Ctrl-D or /quit leaves)")
            continue
        if line:
            yield line


def take_line(dialogue: Dialogue, line: str, *, is_json: bool, gate: InterruptGate | None = None) -> bool:
    """Carry out a command, or say something, and return whether to go on; // at the beginning says one slash.

    Raises:
        KeyboardInterrupt: The answer was stopped, and nobody is there to say anything else.
    """
    from posttrain.cli.output import print_line_json, print_lines, print_piece

    if line.split()[0] == "/quit":
        return False
    if line.startswith("/") and not line.startswith("//"):
        answer = carry_out(dialogue, line)
        if is_json:
            print_line_json({"command": line, "answer": answer})
        else:
            print_lines(*answer)
        return True
    text = line[1:] if line.startswith("//") else line
    reply = dialogue.ask(text, (lambda piece: None) if is_json else print_piece, gate.open() if gate else None)
    if is_json:
        shown = {"text": reply.text, "finish_reason": find_reason(reply), "turns_left_out": reply.turns_left_out}
        if dialogue.talker.environment is not None:
            shown |= {"transcript": list(reply.transcript), "cut": reply.cut}
        print_line_json({"said": text, **shown})
    else:
        print_lines("")
        show_remarks(reply)
    if reply.completion is None and gate is None:
        raise KeyboardInterrupt
    return True


def find_reason(reply: Reply) -> str:
    """Return why an answer ended."""
    return "cancelled" if reply.completion is None else reply.completion.finish_reason


def show_remarks(reply: Reply) -> None:
    """Say what a reader cannot see: that an answer was cut or stopped, that turns were left out."""
    from posttrain.cli.output import print_lines

    remarks = {
        "length": "(cut at the most tokens of an answer)",
        "cancelled": "(stopped)" if reply.is_kept else "(stopped; the turn is forgotten)",
    }
    remark = remarks.get(find_reason(reply))
    print_lines(*([remark] if remark else []), *([f"(cut: {reply.cut})"] if reply.cut else []), file=sys.stderr)
    if reply.turns_left_out:
        turns = "turn was" if reply.turns_left_out == 1 else f"{reply.turns_left_out} turns were"
        print_lines(f"(the context is full: the oldest {turns} left out)", file=sys.stderr)


def carry_out(dialogue: Dialogue, line: str) -> list[str]:
    """Carry out a command and return what to say about it.

    Raises:
        RecipeError: There is no such command, or it cannot be used like this.
    """
    from posttrain.core.config import suggest
    from posttrain.core.errors import RecipeError

    name, _, rest = line.partition(" ")
    rest = rest.strip()
    if name == "/help":
        width = max(map(len, COMMANDS))
        return [f"{command.ljust(width)}  {meaning}" for command, meaning in COMMANDS.items()]
    if name == "/reset":
        dialogue.reset()
        return ["every turn is forgotten"]
    if name == "/system":
        dialogue.system = rest or None
        return ["instructions are set" if rest else "no instructions"]
    if name == "/undo":
        said = dialogue.undo()
        return ["there is no turn to forget" if said is None else f"forgotten: {said}"]
    if name == "/settings":
        return change_settings(dialogue, rest)
    if name == "/save" and rest:
        dialogue.save(Path(rest).expanduser())
        return [f"saved: {rest}"]
    known = [command.split()[0] for command in COMMANDS]
    raise RecipeError(
        "/save without a file" if name == "/save" else f"no command {name}",
        expected="/save FILE" if name == "/save" else ", ".join(known),
        cure="" if name == "/save" else f"to say it, begin with //; otherwise {suggest(name, known)}",
        place="chat",
    )


def change_settings(dialogue: Dialogue, text: str) -> list[str]:
    """Change settings if any are given, and return them all, one a line."""
    from dataclasses import asdict

    if text:
        dialogue.change(text.split())
    shown = {"system": dialogue.system, **asdict(dialogue.settings)}
    return [f"{name}: {'none' if value in (None, ()) else value}" for name, value in shown.items()]
