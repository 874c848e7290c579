"""The command line: `posttrain <verb>`; every verb has a file of its own and imports what it needs when it runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from posttrain import __version__
from posttrain.cli import (
    behaviours,
    best_of,
    chat,
    compare,
    contamination,
    curate,
    data,
    eval,
    export,
    lab,
    merge,
    plan,
    pressure,
    report,
    run,
    sample,
    verify,
)
from posttrain.cli.bugs import RUN_FOLDER, record_bug
from posttrain.cli.exit_codes import describe_exit_codes
from posttrain.cli.output import prepare_streams, print_error, print_lines, silence_stdout
from posttrain.core.errors import EXIT_BROKEN_PIPE, EXIT_INTERRUPTED, EXIT_OK, PosttrainError, RecipeError

EPILOG = "Example:\n\n\b\n  posttrain run recipes/demo.yaml\n\nExit codes:\n\n\b\n" + describe_exit_codes()

app = typer.Typer(
    name="posttrain",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 110},
)
lab_verbs = typer.Typer(rich_markup_mode=None, no_args_is_help=False)
data_verbs = typer.Typer(rich_markup_mode=None, no_args_is_help=False)


@app.callback(invoke_without_command=True, epilog=EPILOG)
def show_help(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    """From a pretrained model and a recipe to a model that may be released."""
    if version:
        print_lines(f"posttrain {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


@data_verbs.callback(invoke_without_command=True)
def show_data_help(context: typer.Context) -> None:
    """Look at training rows, check and curate files, write suites."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@lab_verbs.callback(invoke_without_command=True)
def show_lab_help(context: typer.Context) -> None:
    """The embedded world: its rows, its base model, cards."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


app.command("run", epilog=run.EXAMPLE)(run.run)
app.command("plan", epilog=plan.EXAMPLE)(plan.plan)
data_verbs.command("show", epilog=data.SHOW_EXAMPLE)(data.show)
data_verbs.command("check", epilog=data.CHECK_EXAMPLE)(data.check)
data_verbs.command("contamination", epilog=contamination.EXAMPLE)(contamination.contamination)
data_verbs.command("pressure", epilog=pressure.EXAMPLE)(pressure.pressure)
data_verbs.command("behaviours", epilog=behaviours.EXAMPLE)(behaviours.behaviours)
data_verbs.command("curate", epilog=curate.EXAMPLE)(curate.curate)
app.add_typer(data_verbs, name="data")
app.command("sample", epilog=sample.EXAMPLE)(sample.sample)
app.command("best-of", epilog=best_of.EXAMPLE)(best_of.best_of)
app.command("chat", epilog=chat.EXAMPLE)(chat.chat)
app.command("eval", epilog=eval.EXAMPLE)(eval.eval_)
app.command("compare", epilog=compare.EXAMPLE)(compare.compare)
app.command("report", epilog=report.EXAMPLE)(report.report)
app.command("verify", epilog=verify.EXAMPLE)(verify.verify)
lab_verbs.command("show", epilog=lab.SHOW_EXAMPLE)(lab.show)
lab_verbs.command("card", epilog=lab.CARD_EXAMPLE)(lab.card)
lab_verbs.command("build", epilog=lab.BUILD_EXAMPLE)(lab.build)
lab_verbs.command("export", epilog=lab.EXPORT_EXAMPLE)(lab.export)
app.add_typer(lab_verbs, name="lab")
app.command("merge", epilog=merge.EXAMPLE)(merge.merge)
app.command("export", epilog=export.EXAMPLE)(export.export)


def main() -> None:
    """Run the command line of this process and exit with the code that the help text documents."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; no traceback is ever printed.

    Args:
        arguments: Without the program's name: `["plan", "recipes/demo.yaml", "--json"]`.
    """
    prepare_streams()
    RUN_FOLDER.set(None)
    is_json = "--json" in arguments
    try:
        code = app(list(arguments), prog_name="posttrain", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else EXIT_OK
    except PosttrainError as error:
        failure = error
    except KeyboardInterrupt:
        print_lines("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        silence_stdout()
        return EXIT_BROKEN_PIPE
    except SystemExit as exit_:  # what typer makes of a broken pipe that it meets itself
        if not isinstance(exit_.__context__, BrokenPipeError):
            raise
        silence_stdout()
        return EXIT_BROKEN_PIPE
    except Exception as error:  # noqa: BLE001 (the one boundary: what nobody expected is reported as a bug)
        failure = _read_usage_error(error) or record_bug(error)
        print_error(failure, is_json=is_json)
        raise SystemExit(failure.exit_code) from None
    print_error(failure, is_json=is_json)
    return failure.exit_code


def _read_usage_error(error: Exception) -> PosttrainError | None:
    """Return what the parser of arguments complained about, or None if the exception is not its own."""
    message = getattr(error, "format_message", None)
    if message is None:
        return None
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "posttrain"
    return RecipeError(message(), cure=f"{command} --help shows what it takes", place="command line")


if __name__ == "__main__":
    main()
