"""What the evidence outside says of a program that has ended: the status of its result.

Nothing that a program can do makes its result `sandbox_error`: that is left out of training, and a model could learn
to be left out. What its process did before it was confined, and only that, is the harness's failure.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from posttrain.sandbox import execution, plain_data
from posttrain.sandbox.programs import Program, ProgramLimits, ProgramResult, ProgramStatus

_STATUS_OF_RECORD: dict[str, ProgramStatus] = {
    "raised": "raised",
    "bad_record": "bad_record",
    "output": "output",
}


@dataclass(frozen=True, slots=True)
class Report:
    """A server's words on a program: its number, why it ended (`server.ENDINGS`), wait status and CPU seconds."""

    number: int
    ending: str
    status: int
    cpu_seconds: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of a program that has ended.

    `output` is what came over its pipe, beginning with the byte that its confined process wrote before it ran.
    `report` is None if the server is gone.
    """

    program: Program
    limits: ProgramLimits
    output: bytes
    is_flooded: bool
    record: bytes
    report: Report | None


def judge_evidence(evidence: Evidence, *, has_memory_run_out: Callable[[], bool]) -> ProgramResult:
    """Return the result that the evidence amounts to.

    Args:
        evidence: All that is known.
        has_memory_run_out: Whether the kernel has killed a process of this machine, for want of memory, of late.
    """
    limits, report = evidence.limits, evidence.report
    mark, written = evidence.output[:1], evidence.output[1:]
    if report is None:
        return ProgramResult("sandbox_error", why="the sandbox's server ended or hung while the program ran")

    def end(kind: ProgramStatus, why: str, value: Any = None) -> ProgramResult:
        text = written[: limits.output_bytes].decode("utf-8", "replace")
        return ProgramResult(kind, value=value, stdout=text, why=why, cpu_seconds=report.cpu_seconds)

    if report.ending == "no_child":
        return end("sandbox_error", f"no process could be made: {os.strerror(report.status)}")
    if mark != execution.READY:
        said = written.decode("utf-8", "replace")[:500] or f"wait status {report.status}"
        return ProgramResult("sandbox_error", why=f"the process could not be confined: {said}")
    if evidence.is_flooded:
        return end("output", f"more than {limits.output_bytes} bytes of output")
    if report.ending == "cpu" or report.cpu_seconds > limits.cpu_seconds:
        return end("timeout", f"more than {limits.cpu_seconds:g} s of CPU time")
    if report.ending == "wall":
        return end("timeout", f"more than {limits.wall_seconds:g} s of wall-clock time")
    if os.WIFSIGNALED(report.status):
        number = os.WTERMSIG(report.status)
        if number == signal.SIGKILL and has_memory_run_out():
            return end("sandbox_error", "the machine ran out of memory: fewer servers, or a lower memory limit")
        return end("crash", f"its process was ended by signal {number} ({signal.strsignal(number)})")
    return _judge_record(evidence, os.waitstatus_to_exitcode(report.status), end)


def _judge_record(evidence: Evidence, status: int, end: Callable[..., ProgramResult]) -> ProgramResult:
    """Return the result of a process that exited by itself."""
    is_script = evidence.program.entry is None
    try:
        record = plain_data.decode(evidence.record) if evidence.record else None
    except plain_data.PlainDataError as error:
        return end("bad_record", f"its record cannot be read: {error}")
    if record is None and status == execution.OUT_OF_MEMORY_STATUS:
        return end("memory", f"more than {evidence.limits.memory_bytes >> 20} MB of memory")
    if record is None or (type(record) is tuple and record[:1] == ("exit",)):
        if is_script and status == 0:
            return end("ok", "")
        return end("crash", f"its process exited with status {status}" + ("" if is_script else " before it returned"))
    if type(record) is not tuple or len(record) != 2 or type(record[0]) is not str:
        return end("bad_record", "its record has another form")
    kind, content = record
    if kind == "ok" and not is_script:
        return end("ok", "", content)
    if kind in _STATUS_OF_RECORD and type(content) is str:
        return end(_STATUS_OF_RECORD[kind], content[:1000])
    return end("bad_record", "its record has another form")
