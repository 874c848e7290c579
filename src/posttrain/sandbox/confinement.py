"""What a child does to itself before it runs a hostile program; nothing of it can be undone from inside.

It is a list of system calls that the server prepares once: a child bounds itself, gives up its identity and its
capabilities, and goes under the filter of system calls last. The fewer pages a child touches on its way, the sooner
it is ready, so that nothing is computed there that can be computed before.
"""

from __future__ import annotations

import contextlib
import os
import resource
import struct
import sys
from dataclasses import dataclass

from posttrain.sandbox import landlock, seccomp
from posttrain.sandbox.syscalls import Argument, Step, call, libc, make_call, prepare_call

MAX_DESCRIPTORS = 64
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
LIBRARY_FOLDERS = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo")
_BASE_LIBRARIES = ("ld-", "libc.", "libc-", "libm.", "libm-", "libdl", "libpthread", "librt", "libutil", "libpython")
_SET_SIGNAL_ON_PARENT_DEATH, _SET_DUMPABLE, _SET_NO_NEW_PRIVILEGES = 1, 4, 38
_CAPABILITY_VERSION_3 = 0x20080522
_MS_BIND = 0x1000
_SIGKILL = 9
_GREATEST_DESCRIPTOR = 0xFFFFFFFF


Call = tuple[str, *tuple[Argument, ...]]


@dataclass(frozen=True, slots=True)
class Cage:
    """What a server has prepared for its children.

    `has_namespaces` says whether a child gets process and mount namespaces of its own, `base_bytes` of address space
    are mapped before a program runs. `steps` confine a child, `filter` of system calls (None: unfiltered) comes last.
    """

    has_namespaces: bool
    base_bytes: int
    steps: tuple[Step, ...]
    filter: bytes | None


def list_readable() -> list[str]:
    """Return what a program may read: the interpreter's library and the shared libraries it may load."""
    own = [] if sys.base_prefix == "/usr" else [os.path.join(sys.base_prefix, name) for name in ("lib", "lib64")]
    folders = (*own, *LIBRARY_FOLDERS)
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as file:
        mapped = {line[line.index("/") :].rstrip("\n") for line in file if "/" in line}
    # Where the system's libraries lie elsewhere (Nix, say), those that any interpreter has mapped.
    libraries = sorted(path for path in mapped if os.path.basename(path).startswith(_BASE_LIBRARIES))
    known = tuple(f"{folder}/" for folder in folders)
    return [path for path in (*folders, *libraries) if not path.startswith(known) and os.path.exists(path)]


def measure_address_space() -> int:
    """Return the bytes of address space that this process has mapped."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def build_cage(*, has_namespaces: bool, is_confined: bool, user: int | None) -> Cage:
    """Prepare the cage of a server's children.

    Args:
        has_namespaces: They get process and mount namespaces of their own.
        is_confined: They go under Landlock and the filter of system calls; else limits are all that holds them.
            With namespaces the files that a child may not read are not there, and Landlock may be missing.
        user: The numeric user and group that they become; None where they stay who they are.

    Raises:
        OSError: The kernel lacks Landlock, or there is no table of system calls for this architecture.
    """
    steps: list[Call] = [("setsid",)]
    if has_namespaces:
        steps.append(("mount", b"/sys", b"/proc", None, _MS_BIND, None))  # an empty folder covers the processes
    steps += _list_bounds()
    steps.append(("prctl", _SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    if is_confined and (landlock.find_version() or not has_namespaces):
        steps.append(("landlock_restrict_self", landlock.build_ruleset(list_readable(), DEVICES), 0))
    if user is not None:
        steps += [("setgroups", 0, None), ("setresgid", user, user, user), ("setresuid", user, user, user)]
    header = struct.pack("<Ii", _CAPABILITY_VERSION_3, 0)
    nothing = bytes(24)  # effective, permitted and inheritable sets, twice 32 bits each
    steps += [
        ("capset", header, nothing),
        ("prctl", _SET_DUMPABLE, 0, 0, 0, 0),
        # After the change of user, which clears it. In a process namespace the server's end is the child's anyway.
        ("prctl", _SET_SIGNAL_ON_PARENT_DEATH, _SIGKILL, 0, 0, 0),
        ("close_range", 3, _GREATEST_DESCRIPTOR, 0),
    ]
    first_process = 1 if has_namespaces else seccomp.ANY_PROCESS
    return Cage(
        has_namespaces=has_namespaces,
        base_bytes=measure_address_space(),
        steps=tuple(prepare_call(*step) for step in steps),
        filter=seccomp.build_filter(first_process) if is_confined else None,
    )


def confine(cage: Cage, cpu_seconds: int, memory_bytes: int, max_tasks: int) -> None:
    """Confine this process for good.

    Args:
        cage: What the server has prepared.
        cpu_seconds: CPU time after which the kernel kills.
        memory_bytes: Address space beyond the cage's base.
        max_tasks: Threads of its user, in its user namespace.

    Raises:
        OSError: A step was refused; the process must end without running anything.
    """
    with contextlib.suppress(OSError):  # a courtesy to its neighbours: no bomb of threads fills all processors
        os.sched_setaffinity(0, (libc.sched_getcpu(),))
    call(*_bound(resource.RLIMIT_CPU, cpu_seconds))
    call(*_bound(resource.RLIMIT_AS, cage.base_bytes + memory_bytes))
    call(*_bound(resource.RLIMIT_NPROC, max_tasks))
    for step in cage.steps:
        make_call(step)
    if cage.filter is not None:
        own_filter = cage.filter if cage.has_namespaces else seccomp.name_process(cage.filter, os.getpid())
        make_call(seccomp.prepare_installation(own_filter))


def _list_bounds() -> list[Call]:
    bounds = {
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: MAX_DESCRIPTORS,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_SIGPENDING: MAX_DESCRIPTORS,
    }
    return [_bound(kind, bound) for kind, bound in bounds.items()]


def _bound(kind: int, bound: int) -> Call:
    """Return the call that sets a resource limit, or keeps one that is lower already, for good."""
    greatest = resource.getrlimit(kind)[1]
    if greatest != resource.RLIM_INFINITY:
        bound = min(bound, greatest)
    return "prlimit64", 0, kind, struct.pack("<QQ", bound, bound), None
