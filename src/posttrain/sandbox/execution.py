"""Runs one hostile program inside a confined child and leaves a record of what came of it.

The record lies in memory that is shared with the pool outside; the pool reads it when the process is dead. A program
that finds the place can forge its own record, which is no more than it could have returned. Nothing in this process
knows what is expected of the program.
"""

from __future__ import annotations

import _sitebuiltins
import atexit
import builtins
import ctypes
import os
import random
import sys
import threading
import types
from collections.abc import Callable
from importlib import machinery
from typing import Any

from posttrain.sandbox import plain_data
from posttrain.sandbox.syscalls import call

RECORD_HEADER_BYTES = 4
RECORD_SLACK_BYTES = 4096
"""Room in a record beyond that of the value: for the words about a failure."""
READY = b"R"
FAILED = b"E"
OUT_OF_MEMORY_STATUS = 77
"""What a process exits with, without a record, where there may be no room for one."""
_FILE_NAME = "program.py"
_WHY_CHARACTERS = 500
_READABLE, _WRITABLE = 1, 2
_SHARED = 1

Leave = Callable[[str, Any], None]


class RecordArea:
    """The memory that a child leaves its record in, shared with the pool and without a descriptor of its own."""

    def __init__(self, descriptor: int, size: int) -> None:
        self.address = call("mmap", 0, size, _READABLE | _WRITABLE, _SHARED, descriptor, 0)
        self.value_bytes = size - RECORD_HEADER_BYTES - RECORD_SLACK_BYTES

    def leave(self, kind: str, content: Any) -> None:
        """Write a record: what happened, and the value, the words or the exit status that go with it.

        Raises:
            PlainDataError: The content has no plain form, or none of the allowed size.
        """
        room = self.value_bytes if kind == "ok" else RECORD_SLACK_BYTES
        record = plain_data.encode((kind, content), room + 16 if kind == "ok" else room)
        ctypes.memmove(self.address + RECORD_HEADER_BYTES, record, len(record))
        ctypes.memmove(self.address, len(record).to_bytes(RECORD_HEADER_BYTES, "little"), RECORD_HEADER_BYTES)


class _ExtensionLoader(machinery.ExtensionFileLoader):
    """Loads extension modules by their path from the working folder on."""

    def create_module(self, spec: machinery.ModuleSpec) -> types.ModuleType:
        """Return the module that a shared library defines."""
        assert spec.origin is not None
        spec.origin = os.path.relpath(spec.origin, sys.base_prefix)
        return super().create_module(spec)


class _LibraryFinder(machinery.FileFinder):
    """Finds modules of the library from the working folder on, where the child's user may not walk to it by name."""

    def __init__(self, path: str) -> None:
        if not os.path.abspath(path).startswith(sys.base_prefix + os.sep):
            raise ImportError("not in the library", path=path)
        super().__init__(
            path,
            (_ExtensionLoader, machinery.EXTENSION_SUFFIXES),
            (machinery.SourceFileLoader, machinery.SOURCE_SUFFIXES),
            (machinery.SourcelessFileLoader, machinery.BYTECODE_SUFFIXES),
        )
        self.path = os.path.relpath(path, sys.base_prefix)


def keep_library_in_reach(*, is_reachable: bool) -> None:
    """Let later imports work, also where the interpreter lies in a home that its user may not enter (root's, say).

    There they start from the working folder, the interpreter's own, which a process inherits without walking to it.
    """
    if is_reachable:
        os.chdir("/")
    else:
        os.chdir(sys.base_prefix)
        sys.path_hooks.insert(0, _LibraryFinder)
    sys.path_importer_cache.clear()


def look_ordinary() -> None:
    """Give a program the standard streams and the names that a script finds; whoever is forked later inherits them."""
    sys.argv = [_FILE_NAME]
    streams: tuple[tuple[str, int, str, str], ...] = (
        ("stdin", 0, "r", "surrogateescape"),
        ("stdout", 1, "w", "surrogateescape"),
        ("stderr", 2, "w", "backslashreplace"),
    )
    for name, descriptor, mode, errors in streams:
        stream = open(descriptor, mode, encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115 - they stay open
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    for name in ("exit", "quit"):  # left out by an interpreter without `site`
        setattr(builtins, name, _sitebuiltins.Quitter(name, "Ctrl-D"))
    os.environ.clear()
    random.seed(0)  # a verdict does not depend on chance, or on which server a program meets


def run_program(content: bytes, leave: Leave) -> int:
    """Run a program (`fleet.pack_request`), leave its record, and return the status that the process must end with."""
    try:
        request = plain_data.decode(content)
        if request["entry"] is None:
            return _run_script(request["source"], leave)
        _run_function(request, leave)
    except MemoryError:
        return OUT_OF_MEMORY_STATUS
    except SystemExit as end:
        status = end.code if type(end.code) is int else 0 if end.code is None else 1
        leave("exit", status)
        return status & 0xFF
    except BaseException as error:  # noqa: BLE001 - a hostile program may raise anything
        _flush()
        leave("raised", _describe(error))
    return 0


def _load(source: str, name: str) -> dict[str, Any]:
    """Run a source as the module of a name, and return its globals."""
    module = types.ModuleType(name)
    module.__dict__.update(__file__=_FILE_NAME, __builtins__=builtins)
    sys.modules[name] = module
    exec(compile(source.removeprefix("\ufeff"), _FILE_NAME, "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - what this process is for
    return module.__dict__


def _run_script(source: str, leave: Leave) -> int:
    status = 0
    try:
        _load(source, "__main__")
    except SystemExit as end:
        status = end.code if type(end.code) is int else 0 if end.code is None else 1
    threading._shutdown()  # type: ignore[attr-defined]  # as an interpreter does at its end: threads that are no daemons
    atexit._run_exitfuncs()
    _flush()
    leave("exit", status)
    return status & 0xFF


def _run_function(request: dict[str, Any], leave: Leave) -> None:
    names = _load(request["source"], "program")
    entry = request["entry"]
    if entry not in names:
        leave("raised", f"NameError: the program defines no '{entry}'")
        return
    value = names[entry](*request["args"], **request["kwargs"])
    _flush()
    try:
        leave("ok", value)
    except plain_data.PlainDataSizeError as error:
        leave("output", f"the value has {error}")
    except plain_data.PlainDataError as error:
        leave("bad_record", str(error))


def _flush() -> None:
    for stream in (sys.stdout, sys.__stdout__):
        try:
            stream.flush()  # type: ignore[union-attr]
        except BaseException:  # noqa: BLE001 - a hostile program may have closed or replaced it
            continue


def _describe(error: BaseException) -> str:
    """Return what an exception says of itself, bounded, with the program's line."""
    try:
        text = str(error)[:_WHY_CHARACTERS]
    except BaseException:  # noqa: BLE001 - a hostile program's exception may raise when it is shown
        text = "(it cannot be shown)"
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == _FILE_NAME:
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"{type(error).__name__!s:.100}: {text}" + (f" (line {line})" if line else "")
