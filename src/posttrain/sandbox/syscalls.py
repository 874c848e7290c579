"""System calls that Python has no function for, with their numbers on x86_64 and aarch64."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Any

ARCHITECTURE = os.uname().machine
NUMBERS: dict[str, int]

# Name: number on x86_64, number on aarch64; 0 where an architecture lacks the call (read, number 0, is set below).
_TABLE: dict[str, tuple[int, int]] = {
    "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67), "pwrite64": (18, 68),
    "close": (3, 57), "close_range": (436, 436), "fstat": (5, 80), "newfstatat": (262, 79), "stat": (4, 0),
    "lstat": (6, 0), "statx": (332, 291), "statfs": (137, 43), "fstatfs": (138, 44), "lseek": (8, 62),
    "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "mremap": (25, 216), "brk": (12, 214),
    "madvise": (28, 233), "msync": (26, 227),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "rt_sigpending": (127, 136),
    "rt_sigtimedwait": (128, 137), "rt_sigsuspend": (130, 133), "sigaltstack": (131, 132),
    "access": (21, 0), "faccessat": (269, 48), "faccessat2": (439, 439), "open": (2, 0), "openat": (257, 56),
    "getdents64": (217, 61), "getdents": (78, 0), "readlink": (89, 0), "readlinkat": (267, 78), "getcwd": (79, 17),
    "chdir": (80, 49), "umask": (95, 166), "fsync": (74, 82), "fdatasync": (75, 83),
    "pipe": (22, 0), "pipe2": (293, 59), "dup": (32, 23), "dup2": (33, 0), "dup3": (292, 24),
    "select": (23, 0), "pselect6": (270, 72), "poll": (7, 0), "ppoll": (271, 73), "epoll_create": (213, 0),
    "epoll_create1": (291, 20), "epoll_ctl": (233, 21), "epoll_wait": (232, 0), "epoll_pwait": (281, 22),
    "epoll_pwait2": (441, 441), "eventfd2": (290, 19), "sched_yield": (24, 124), "sched_getaffinity": (204, 123),
    "sched_getparam": (143, 121), "sched_getscheduler": (145, 120), "sched_get_priority_max": (146, 125),
    "sched_get_priority_min": (147, 126), "pause": (34, 0), "nanosleep": (35, 101), "clock_nanosleep": (230, 115),
    "getitimer": (36, 102), "setitimer": (38, 103), "alarm": (37, 0),
    "getpid": (39, 172), "getppid": (110, 173), "gettid": (186, 178), "getuid": (102, 174), "geteuid": (107, 175),
    "getgid": (104, 176), "getegid": (108, 177), "getresuid": (118, 148), "getresgid": (120, 150),
    "getgroups": (115, 158), "getpgrp": (111, 0), "getpgid": (121, 155), "getsid": (124, 156),
    "getpriority": (140, 141), "exit": (60, 93), "exit_group": (231, 94), "uname": (63, 160), "sysinfo": (99, 179),
    "times": (100, 153), "getrusage": (98, 165), "getrlimit": (97, 163), "setrlimit": (160, 164),
    "futex": (202, 98), "futex_waitv": (449, 449), "set_robust_list": (273, 99), "set_tid_address": (218, 96),
    "rseq": (334, 293), "restart_syscall": (219, 128), "getcpu": (309, 168),
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "gettimeofday": (96, 169), "time": (201, 0),
    "getrandom": (318, 278), "recvfrom": (45, 207), "sendto": (44, 206), "getsockname": (51, 204),
    "getsockopt": (55, 209), "shutdown": (48, 210), "socketpair": (53, 199),
    "clone": (56, 220), "clone3": (435, 435), "kill": (62, 129), "tgkill": (234, 131), "prlimit64": (302, 261),
    "prctl": (157, 167), "fcntl": (72, 25), "ioctl": (16, 29), "seccomp": (317, 277),
    "landlock_create_ruleset": (444, 444), "landlock_add_rule": (445, 445), "landlock_restrict_self": (446, 446),
    "capset": (126, 91), "mount": (165, 40), "setsid": (112, 157), "setgroups": (116, 159), "setresuid": (117, 147),
    "setresgid": (119, 149), "unshare": (272, 97),
}  # fmt: skip

if ARCHITECTURE == "x86_64":
    NUMBERS = {name: numbers[0] for name, numbers in _TABLE.items() if numbers[0]} | {"read": 0}
elif ARCHITECTURE == "aarch64":
    NUMBERS = {name: numbers[1] for name, numbers in _TABLE.items() if numbers[1]} | {"read": 63}
else:
    NUMBERS = {}

# PyDLL holds the interpreter's lock: after a raw clone the child must not have to take it.
libc = ctypes.PyDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


Argument = int | bytes | None
Step = tuple[str, tuple[Any, ...]]
"""A system call with its arguments as the C library takes them, ready to be made."""


def prepare_call(name: str, *arguments: Argument) -> Step:
    """Return a system call to be made later, with integers, bytes to read (as a pointer) and null as arguments.

    Raises:
        OSError: This architecture has no number for it.
    """
    if name not in NUMBERS:
        raise OSError(errno.ENOSYS, f"{name}: no number known on {ARCHITECTURE}")
    passed = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    return name, (ctypes.c_long(NUMBERS[name]), *passed)


def make_call(step: Step) -> int:
    """Make a prepared system call.

    Raises:
        OSError: The kernel refused it.
    """
    result: int = libc.syscall(*step[1])
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{step[0]}: {os.strerror(number)}")
    return result


def call(name: str, *arguments: Argument) -> int:
    """Make a system call (see `prepare_call`).

    Raises:
        OSError: The kernel refused it, or this architecture has no number for it.
    """
    return make_call(prepare_call(name, *arguments))
