"""The filter of system calls, run by a small BPF machine: what is allowed, refused, unknown, and fatal."""

from __future__ import annotations

import errno
import struct

import pytest

from posttrain.sandbox import seccomp, syscalls
from posttrain.sandbox.seccomp import ANY_PROCESS, build_filter, name_process
from posttrain.sandbox.syscalls import _TABLE

ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
I386 = 0x40000003
SELF = 4242


def run_filter(program: bytes, architecture: int, number: int, arguments: tuple[int, ...]) -> int:
    """Return what a filter decides of a call (classic BPF, the instructions that filters here use)."""
    padded = (*arguments, *[0] * (6 - len(arguments)))
    call = struct.pack("<IIQ6Q", number, architecture, 0, *(value & (2**64 - 1) for value in padded))
    accumulator = place = 0
    while True:
        code, if_true, if_false, value = struct.unpack_from("<HBBI", program, 8 * place)
        place += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", call, value)
        elif code == 0x54:
            accumulator &= value
        elif code == 0x06:
            return value
        else:
            holds = {0x15: accumulator == value, 0x25: accumulator > value, 0x35: accumulator >= value}[code]
            place += if_true if holds else if_false


@pytest.fixture(params=["x86_64", "aarch64"])
def architecture(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    column = list(AUDIT).index(request.param)
    numbers = {name: pair[column] for name, pair in _TABLE.items() if pair[column]}
    monkeypatch.setattr(seccomp, "ARCHITECTURE", request.param)
    monkeypatch.setattr(seccomp, "NUMBERS", numbers | {"read": (0, 63)[column]})
    return str(request.param)


def decide(architecture: str, name: str | int, *arguments: int) -> int:
    number = seccomp.NUMBERS[name] if isinstance(name, str) else name
    return run_filter(build_filter(SELF), AUDIT[architecture], number, arguments)


def test_ordinary_calls_are_allowed(architecture: str) -> None:
    for name in ("read", "write", "openat", "mmap", "futex", "exit_group", "getrandom", "clock_nanosleep", "ppoll"):
        assert decide(architecture, name) == ALLOW, name


def test_every_number_that_is_not_listed_is_refused(architecture: str) -> None:
    listed = set(seccomp.NUMBERS.values()) - {seccomp.NUMBERS[name] for name in seccomp._SETUP_ONLY}
    for number in range(451):
        decision = decide(architecture, number)
        assert decision in ((ALLOW, EPERM, ENOSYS) if number in listed else (EPERM,)), number
    assert {decide(architecture, number) for number in (451, 500, 4000)} == {ENOSYS}


def test_what_only_the_setup_needs_is_refused_afterwards(architecture: str) -> None:
    for name in seccomp._SETUP_ONLY:
        assert decide(architecture, name) == EPERM, name


def test_calls_of_another_architecture_kill(architecture: str) -> None:
    other = next(audit for name, audit in AUDIT.items() if name != architecture)
    for audit in (I386, other):
        assert run_filter(build_filter(SELF), audit, seccomp.NUMBERS["read"], ()) == KILL
    assert decide(architecture, 0x40000000 | 39) == KILL


def test_threads_may_be_made_and_processes_and_namespaces_not(architecture: str) -> None:
    assert decide(architecture, "clone", 0x3D0F00) == decide(architecture, "clone", 0x7D0F00) == ALLOW
    for flags in (17, 0, 0x4111, 0x3D0F00 | 0x10000000, 0x3D0F00 | 0x20000, 0x3D0F00 & ~0x10000, 0x3D0F00 | 0x2000):
        assert decide(architecture, "clone", flags) == EPERM, hex(flags)
    assert decide(architecture, "clone3", 0x3D0F00) == ENOSYS


@pytest.mark.parametrize("name", ["kill", "tgkill"])
def test_a_process_may_signal_itself_alone(architecture: str, name: str) -> None:
    assert decide(architecture, name, SELF, 10) == ALLOW
    for other in (0, 1, -1, -SELF, SELF + 1, ANY_PROCESS):
        assert decide(architecture, name, other, 10) == EPERM, other
    assert decide(architecture, name, (1 << 32) | SELF, 10) == ALLOW  # the kernel reads the low word alone


def test_other_arguments_are_looked_at(architecture: str) -> None:
    allowed = [
        ("prlimit64", 0, 3), ("prctl", 15), ("fcntl", 1, 4), ("fcntl", 1, 1030), ("ioctl", 0, 0x5401),
        ("socketpair", 1, 1 | 0x80000), ("sendto", 5, 1, 1, 0, 0, 0), ("openat", -100, 1, 0o2000000),
    ]  # fmt: skip
    refused = [
        ("prlimit64", 1, 3), ("prctl", 1), ("prctl", 4), ("prctl", 22), ("prctl", 38), ("fcntl", 1, 6), ("fcntl", 1, 8),
        ("fcntl", 1, 10), ("fcntl", 1, 1031), ("ioctl", 0, 0x5412), ("socketpair", 2, 1), ("socketpair", 1, 2),
        ("sendto", 5, 1, 1, 0, 1 << 12, 16), ("openat", -100, 1, 0x200000),
    ]  # fmt: skip
    assert [call for call in allowed if decide(architecture, *call) != ALLOW] == []
    assert [call for call in refused if decide(architecture, *call) != EPERM] == []


def test_a_filter_that_was_made_before_its_process_is_the_one_made_for_it(architecture: str) -> None:
    assert name_process(build_filter(ANY_PROCESS), SELF) == build_filter(SELF)


def test_numbers_are_in_one_column_once() -> None:
    for column in (0, 1):
        numbers = [pair[column] for pair in _TABLE.values() if pair[column]]
        assert len(numbers) == len(set(numbers))


def test_an_architecture_without_a_table_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp, "ARCHITECTURE", "riscv64")
    with pytest.raises(OSError, match="no table"):
        build_filter(1)
    monkeypatch.setattr(syscalls, "NUMBERS", {})
    with pytest.raises(OSError, match="no number known"):
        syscalls.call("setsid")
