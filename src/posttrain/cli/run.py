"""`posttrain run`: carry out a recipe, or go on with it where it was stopped."""

from __future__ import annotations

import os

from posttrain.cli.options import (
    FolderOption,
    JsonOption,
    OverrideOption,
    RecipeArgument,
    SetOption,
    UnsafeOption,
    show_example,
)
from posttrain.core.errors import EXIT_OK, EXIT_REFUSED

EXAMPLE = show_example(
    "posttrain run recipes/demo.yaml", "posttrain run recipes/demo.yaml --set sft.learning_rate=1e-4"
)


def run(
    recipe: RecipeArgument,
    set_: SetOption = None,
    folder: FolderOption = None,
    override: OverrideOption = None,
    allow_unsafe_execution: UnsafeOption = False,
    json: JsonOption = False,
) -> int:
    """Carry out a recipe: train, evaluate, decide at its gates, report.

    Before anything is trained, rows, lengths, scorers, memory and the policy itself are checked; a check that is
    refused names its cure.

    Stages that are done already, with the same configuration and inputs, are not done again. A run that
    was stopped goes on where it stood when the same command is given. SIGTERM or Ctrl-C saves and stops;
    a second Ctrl-C stops at once. The exit code is 8 where a gate could not decide, where a monitor that
    holds raised an alarm, and where a stage was rolled back.
    """
    from posttrain.cli.bugs import RUN_FOLDER
    from posttrain.cli.console import build_progress
    from posttrain.cli.output import print_json, print_lines
    from posttrain.cli.stopping import StopFlag
    from posttrain.core.collector import paused_collector
    from posttrain.core.run_folder import RunFolder
    from posttrain.pipeline.recipe import read_recipe

    read = read_recipe(recipe, set_ or (), folder=folder)
    with paused_collector():
        from posttrain.pipeline.run import run_recipe  # heavy: a bad recipe is refused before it is imported

    RUN_FOLDER.set(read.folder)
    with StopFlag() as should_stop:
        finished = run_recipe(
            read,
            progress=build_progress(json),
            should_stop=should_stop,
            allow_unsafe=allow_unsafe_execution,
            override=override or (),
        )
    from posttrain.pipeline.run_record import list_alarms, list_gates

    gates, alarms = list_gates(RunFolder(finished)), list_alarms(RunFolder(finished))
    code = EXIT_REFUSED if any(gate["decision"] == "roll_back" for gate in gates) else EXIT_OK
    if not is_first_process():
        return code
    page = RunFolder(finished).report
    if json:
        print_json(
            {"folder": str(finished), "report": str(page) if page.is_file() else None, "gates": gates, "alarms": alarms}
        )
    else:
        print_lines(*(f"gate of {gate['stage']}: {gate['reason']}" for gate in gates))
        print_lines(*(f"ALARM {alarm['monitor']} ({alarm['stage']}): {alarm['why']}" for alarm in alarms))
        print_lines(f"run folder: {finished}", *([f"report: {page}"] if page.is_file() else []))
    return code


def is_first_process() -> bool:
    """Return whether this process speaks for the run: under torchrun, only its first one."""
    return os.environ.get("RANK", "0") == "0"
