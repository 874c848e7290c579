"""What a child does to itself before it runs a hostile program; nothing of it can be undone from inside.

A server prepares what can be prepared once (the Landlock ruleset, the interpreter's own address space); each child
then bounds itself, gives up its identity and its capabilities, and goes under the filter of system calls last.
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct
import sys
from dataclasses import dataclass
from typing import Any

from posttrain.sandbox import landlock, seccomp
from posttrain.sandbox.syscalls import call, control_process

MAX_THREADS = 64
"""Threads of one program, itself and whatever else runs under its user in its user namespace included."""
MAX_DESCRIPTORS = 64
_SETUP_SIGNAL_ON_PARENT_DEATH, _SET_DUMPABLE, _SET_NO_NEW_PRIVILEGES = 1, 4, 38
_CAPABILITY_VERSION_3 = 0x20080522
_MS_BIND = 0x1000
_SIGKILL = 9
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
LIBRARY_FOLDERS = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo")


@dataclass(frozen=True, slots=True)
class Cage:
    """What a server has prepared for its children.

    `user` is the numeric user and group that a child becomes, None where it stays who it is. `ruleset` is a Landlock
    descriptor, `is_filtered` says whether system calls are, `has_namespaces` whether a child gets process and mount
    namespaces of its own. `base_bytes` of address space are mapped before a program runs.
    """

    user: int | None
    ruleset: int | None
    is_filtered: bool
    has_namespaces: bool
    base_bytes: int
    max_tasks: int


@dataclass(frozen=True, slots=True)
class ChildLimits:
    """The limits of one child: whole seconds of CPU time after which the kernel kills, bytes beyond the cage's base."""

    cpu_seconds: int
    memory_bytes: int


def list_readable() -> list[str]:
    """Return what a program may read: the interpreter's library and the shared libraries it may load."""
    own = [os.path.join(sys.base_prefix, name) for name in ("lib", "lib64")]
    if sys.base_prefix == "/usr":
        own = []
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as file:
        mapped = {line.split(maxsplit=5)[5].rstrip("\n") for line in file if line.count("/")}
    folders = (*own, *LIBRARY_FOLDERS)
    loose = sorted(path for path in mapped if path.startswith("/") and ".so" in os.path.basename(path))
    return [*folders, *(path for path in loose if not path.startswith(tuple(f"{folder}/" for folder in folders)))]


def build_ruleset() -> int:
    """Return a Landlock ruleset that allows reading the interpreter's library and using harmless devices."""
    return landlock.build_ruleset(list_readable(), DEVICES)


def measure_address_space() -> int:
    """Return the bytes of address space that this process has mapped."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def confine(cage: Cage, limits: ChildLimits) -> None:
    """Confine this process for good.

    Raises:
        OSError: A step was refused; the process must end without running anything.
    """
    os.setsid()
    if cage.has_namespaces:
        call("mount", *map(ctypes.create_string_buffer, (b"/sys", b"/proc")), 0, _MS_BIND, 0)
    _bound(cage, limits)
    control_process(_SET_NO_NEW_PRIVILEGES, 1)
    if cage.ruleset is not None:
        landlock.enter(cage.ruleset)
    if cage.user is not None:
        os.setgroups([])
        os.setresgid(cage.user, cage.user, cage.user)
        os.setresuid(cage.user, cage.user, cage.user)
    _drop_capabilities()
    control_process(_SET_DUMPABLE, 0)
    # After the change of user, which clears it. In a process namespace the server's end is the child's anyway.
    control_process(_SETUP_SIGNAL_ON_PARENT_DEATH, _SIGKILL)
    os.closerange(3, 1 << 16)
    if cage.is_filtered:
        seccomp.install_filter(seccomp.build_filter(os.getpid()))


def _bound(cage: Cage, limits: ChildLimits) -> None:
    address_space = cage.base_bytes + limits.memory_bytes
    bounds: dict[int, Any] = {
        resource.RLIMIT_AS: (address_space, address_space),
        resource.RLIMIT_CPU: (limits.cpu_seconds, limits.cpu_seconds),
        resource.RLIMIT_FSIZE: (0, 0),
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_NOFILE: (MAX_DESCRIPTORS, MAX_DESCRIPTORS),
        resource.RLIMIT_NPROC: (cage.max_tasks, cage.max_tasks),
        resource.RLIMIT_MEMLOCK: (0, 0),
        resource.RLIMIT_MSGQUEUE: (0, 0),
        resource.RLIMIT_SIGPENDING: (MAX_DESCRIPTORS, MAX_DESCRIPTORS),
    }
    for kind, bound in bounds.items():
        resource.setrlimit(kind, bound)


def _drop_capabilities() -> None:
    header = struct.pack("<Ii", _CAPABILITY_VERSION_3, 0)
    nothing = bytes(24)  # effective, permitted and inheritable sets, twice 32 bits each
    call("capset", ctypes.create_string_buffer(header, 8), ctypes.create_string_buffer(nothing, 24))
