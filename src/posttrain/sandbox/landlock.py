"""Landlock: from a point on, a process may open nothing but what a rule allows, whoever it runs as.

Source: `Documentation/userspace-api/landlock.rst`. Known limits: names and attributes of files can still be looked
up (`stat`), which is why the child has neither a readable home nor a call that changes attributes.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
from collections.abc import Iterable

from posttrain.sandbox.syscalls import call

_WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 1, 1 << 2, 1 << 3
_RIGHTS_BY_VERSION = {1: 13, 2: 14, 3: 15, 4: 15}  # access rights known to each version; 16 from 5 on
_TCP_RIGHTS = 0b11
_SCOPES = 0b11  # abstract sockets and signals
_PATH_BENEATH = 1
_VERSION_FLAG = 1


def find_version() -> int:
    """Return the version of Landlock's interface, 0 where the kernel has none or has it switched off."""
    try:
        return call("landlock_create_ruleset", 0, 0, _VERSION_FLAG)
    except OSError:
        return 0


def build_ruleset(readable: Iterable[str], writable: Iterable[str]) -> int:
    """Return the descriptor of a ruleset: folders and files to read, files to read and write; missing ones left out.

    Raises:
        OSError: The kernel has no Landlock.
    """
    version = find_version()
    handled = (1 << _RIGHTS_BY_VERSION.get(version, 16)) - 1
    attributes = struct.pack("<QQQ", handled, _TCP_RIGHTS, _SCOPES)[: 24 if version >= 6 else 16 if version >= 4 else 8]
    ruleset = call("landlock_create_ruleset", attributes, len(attributes), 0)
    for path in readable:
        _allow(ruleset, path, _READ_FILE | _READ_DIR)
    for path in writable:
        _allow(ruleset, path, _READ_FILE | _WRITE_FILE)
    return ruleset


def _allow(ruleset: int, path: str, rights: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
                rights &= ~_READ_DIR
            call("landlock_add_rule", ruleset, _PATH_BENEATH, struct.pack("<Qi", rights, descriptor), 0)
        finally:
            os.close(descriptor)
