"""The list of system calls that a hostile program may make, as a BPF program for seccomp.

What is not on the list fails with EPERM. What the kernel has gained since the list was made, and `clone3` (whose
arguments lie in memory, where a filter cannot look), fail with ENOSYS, so that the C library falls back. Calls of
another architecture (32-bit, x32) kill the process.

Sources: `Documentation/userspace-api/seccomp_filter.rst`; `struct seccomp_data`: number at 0, architecture at 4,
six 64-bit arguments from 16.
"""

from __future__ import annotations

import ctypes
import errno
import struct
import sys

from posttrain.sandbox.syscalls import ARCHITECTURE, NUMBERS, Step, prepare_call

_AUDIT_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000
_GREATEST_NUMBER = 450
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD_WORD, _AND, _RETURN = 0x20, 0x54, 0x06
_JUMP_EQUAL, _JUMP_GREATER, _JUMP_AT_LEAST = 0x15, 0x25, 0x35
_SET_MODE_FILTER = 1

_THREAD_FLAGS = 0x003D0F00  # VM, FS, FILES, SIGHAND, THREAD, SYSVSEM, SETTLS, PARENT_SETTID, CHILD_CLEARTID
_CLONE_DETACHED = 0x00400000  # without meaning, set by musl
_WHOLE = 0xFFFFFFFF
_AF_UNIX, _SOCK_STREAM = 1, 1
_FCNTL = (0, 1, 2, 3, 4, 1030, 1032)  # F_DUPFD to F_SETFL, F_DUPFD_CLOEXEC, F_GETPIPE_SZ: no signals, no locks
_IOCTL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX
_PRCTL = (3, 15, 16, 21, 23, 39, 0x53564D41)  # dumpable?, name, name?, seccomp?, capability?, new privileges?, map name

Condition = tuple[int, int, int]
"""Argument (0 to 5), mask, value: `low word of the argument & mask == value`. The kernel reads ints as low words."""

_O_PATH = 0x200000  # a descriptor that Landlock does not ask about
_CONDITIONAL = {"open", "openat", "clone", "clone3", "kill", "tgkill", "prlimit64", "prctl", "fcntl", "ioctl",
                "socketpair", "sendto"}  # fmt: skip
_SETUP_ONLY = {"seccomp", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self", "capset", "mount",
               "setsid", "setgroups", "setresuid", "setresgid", "unshare"}  # fmt: skip
ANY_PROCESS = 0x7FFFFFF1
"""Stands for the process's own id in a filter that is made before the process; larger than any id."""


def build_filter(process_id: int) -> bytes:
    """Return the filter for a process, which may signal itself alone: 8 bytes an instruction.

    Raises:
        OSError: No table for this architecture.
    """
    if ARCHITECTURE not in _AUDIT_ARCHITECTURES or sys.byteorder != "little":
        raise OSError(errno.ENOSYS, f"no table of system calls for {ARCHITECTURE}")
    own = (0, _WHOLE, process_id)
    conditional: dict[str, list[list[Condition]]] = {
        "clone": [[(0, _WHOLE ^ _CLONE_DETACHED, _THREAD_FLAGS)]],
        "kill": [[own]],
        "tgkill": [[own]],
        "prlimit64": [[(0, _WHOLE, 0)]],
        "prctl": [[(0, _WHOLE, option)] for option in _PRCTL],
        "fcntl": [[(1, _WHOLE, command)] for command in _FCNTL],
        "ioctl": [[(1, _WHOLE, request)] for request in _IOCTL],
        "openat": [[(2, _O_PATH, 0)]],
        # An unnamed connected pair reaches nobody else: asyncio wakes itself with one.
        "socketpair": [[(0, _WHOLE, _AF_UNIX), (1, 0xF, _SOCK_STREAM)]],
        "sendto": [[(4, _WHOLE, 0), (5, _WHOLE, 0)]],
    }
    if "open" in NUMBERS:
        conditional["open"] = [[(1, _O_PATH, 0)]]
    program = [
        *_load(4),
        _instruction(_JUMP_EQUAL, 1, 0, _AUDIT_ARCHITECTURES[ARCHITECTURE]),
        _give(_KILL_PROCESS),
        *_load(0),
        _instruction(_JUMP_AT_LEAST, 0, 1, _X32_BIT),
        _give(_KILL_PROCESS),
        _instruction(_JUMP_GREATER, 0, 1, _GREATEST_NUMBER),
        _give(_ERRNO | errno.ENOSYS),
        _instruction(_JUMP_EQUAL, 0, 1, NUMBERS["clone3"]),
        _give(_ERRNO | errno.ENOSYS),
    ]
    program += _allow_ranges(sorted(NUMBERS[name] for name in NUMBERS.keys() - _CONDITIONAL - _SETUP_ONLY))
    for name, alternatives in conditional.items():
        block = _allow_if(alternatives)
        program += [_instruction(_JUMP_EQUAL, 0, len(block), NUMBERS[name]), *block]
    program.append(_give(_ERRNO | errno.EPERM))
    return b"".join(program)


def prepare_installation(program: bytes) -> Step:
    """Return the call that puts this process and its later threads under a filter for good.

    It fails unless `no_new_privs` is set. The step holds the filter's address, so the filter must outlive it.
    """
    address = ctypes.cast(ctypes.c_char_p(program), ctypes.c_void_p).value
    return prepare_call("seccomp", _SET_MODE_FILTER, 0, struct.pack("HxxxxxxP", len(program) // 8, address))


def name_process(program: bytes, process_id: int) -> bytes:
    """Return a filter made for `ANY_PROCESS` as one for a process of this id."""
    return program.replace(struct.pack("<I", ANY_PROCESS), struct.pack("<I", process_id))


def _instruction(code: int, if_true: int, if_false: int, value: int) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, value)


def _load(offset: int) -> list[bytes]:
    return [_instruction(_LOAD_WORD, 0, 0, offset)]


def _give(value: int) -> bytes:
    return _instruction(_RETURN, 0, 0, value)


def _allow_ranges(numbers: list[int]) -> list[bytes]:
    """Return instructions that allow sorted numbers, a run of successive ones at a time."""
    program: list[bytes] = []
    first = last = numbers[0]
    for number in [*numbers[1:], -1]:
        if number == last + 1:
            last = number
            continue
        program += [
            _instruction(_JUMP_AT_LEAST, 0, 2, first),
            _instruction(_JUMP_GREATER, 1, 0, last),
            _give(_ALLOW),
        ]
        first = last = number
    return program


def _allow_if(alternatives: list[list[Condition]]) -> list[bytes]:
    """Return instructions that allow a call if all conditions of one alternative hold, and end with EPERM."""
    program: list[bytes] = []
    for conditions in alternatives:
        body: list[bytes] = [_give(_ALLOW)]
        for argument, mask, value in reversed(conditions):
            body = [
                *_load(16 + 8 * argument),
                *([_instruction(_AND, 0, 0, mask)] if mask != _WHOLE else []),
                _instruction(_JUMP_EQUAL, 0, len(body), value),
                *body,
            ]
        program += body
    return [*program, _give(_ERRNO | errno.EPERM)]
