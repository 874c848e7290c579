"""Starts a fork server of a tier, and talks to it.

The server's source travels in a descriptor, so that the server needs neither this package's files nor anything else
of the user's to be readable where it runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

from posttrain.core.errors import SandboxError
from posttrain.sandbox import confinement, execution, landlock, plain_data, seccomp, server, syscalls, tasks
from posttrain.sandbox.verdicts import Report

TIERS = ("bubblewrap", "landlock", "unsafe")
START_SECONDS = 60.0
"""How long a server may take to be ready: generous, a loaded machine is no failure."""
_END_SECONDS = 5.0
_MODULES = (
    syscalls,
    tasks,
    landlock,
    seccomp,
    plain_data,
    confinement,
    execution,
    server,
)  # each before those that import it
_BOOT = """
import json, sys, types
with open(int(sys.argv[1]), 'rb') as file:
    settings = json.loads(file.read())
for name, source in settings.pop('sources'):
    module = sys.modules[name] = types.ModuleType(name)
    if source:
        exec(compile(source, name, 'exec'), module.__dict__)
    else:
        module.__path__ = []
    parent, _, own = name.rpartition('.')
    if parent:
        setattr(sys.modules[parent], own, module)
sys.modules['posttrain.sandbox.server'].main(settings)
"""
_LEAST_USER, _GREATEST_USER = 200_000, 2_000_000_000
_LEAST_SMALL_USER, _GREATEST_SMALL_USER = 20_000, 60_000


class ServerStartError(SandboxError):
    """A fork server that could not be started."""


class ServerHandle:
    """One fork server: its process, the socket that it is spoken to over, and the user its programs become."""

    def __init__(self, tier: str) -> None:
        self.tier = tier
        self.user = choose_user() if os.geteuid() == 0 else None
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        owner = os.pidfd_open(os.getpid())
        errors = os.memfd_create("errors")
        settings = {
            "tier": tier,
            "control": theirs.fileno(),
            "owner": owner,
            "user": self.user,
            "sources": _list_sources(),
        }
        program = make_memory_file(json.dumps(settings).encode())
        try:
            self.process = subprocess.Popen(
                [*_list_wrapper(tier), *_list_interpreter(), str(program)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                pass_fds=[theirs.fileno(), owner, program],
                start_new_session=True,
                cwd="/",
                env={"PYTHONHASHSEED": "0", "LD_BIND_NOW": "1"},  # bound once here, not in every child
            )
            theirs.close()  # so that the end of a server that cannot start is seen
            self._wait_until_ready(errors)
        except OSError as error:
            self.control.close()
            raise ServerStartError(f"the fork server cannot be started: {error}") from error
        finally:
            theirs.close()
            for descriptor in (owner, errors, program):
                os.close(descriptor)

    def _wait_until_ready(self, errors: int) -> None:
        deadline = time.monotonic() + START_SECONDS
        answer = b""
        waiting = select.poll()
        waiting.register(self.control, select.POLLIN)
        if waiting.poll(1000 * max(0.0, deadline - time.monotonic())):
            with contextlib.suppress(OSError):
                answer = self.control.recv(256)
        else:
            answer = f"failed: not ready after {START_SECONDS:g} s".encode()
        if answer != b"ready":
            self.end()
            said = os.pread(errors, 4096, 0).decode("utf-8", "replace").strip().splitlines()
            found = answer.decode("utf-8", "replace").removeprefix("failed ") or (said[-1] if said else "it ended")
            raise ServerStartError(f"the fork server cannot be started: {found}")

    def begin(self, number: int, limits: tuple[float, float, int, int], descriptors: list[int]) -> None:
        """Ask for a program to be run.

        Raises:
            OSError: The server is gone.
        """
        message = server.REQUEST.pack(number, *limits)
        socket.send_fds(self.control, [message], descriptors)

    def kill_program(self, number: int) -> None:
        """Ask for the program of a number to be killed; its report comes as for any other."""
        with contextlib.suppress(OSError):
            self.control.send(server.KILL.pack(number))

    def read_report(self) -> Report | None:
        """Return the report on a program that has ended, or None if the server is gone."""
        try:
            number, ending, status, cpu_seconds = server.REPORT.unpack(self.control.recv(256))
        except (OSError, struct.error):
            return None
        return Report(number, server.ENDINGS[ending], status, cpu_seconds)

    def end(self) -> None:
        """End the server and its child: by itself, so that nothing is left to another to reap, else by force."""
        with contextlib.suppress(OSError):  # shut down: a process that was forked from this one may hold a copy
            self.control.shutdown(socket.SHUT_RDWR)
        self.control.close()
        try:
            self.process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # PermissionError: a group of zombies only
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def make_memory_file(content: bytes) -> int:
    """Return a descriptor of a sealed file in memory: whoever gets it can read it and nothing else."""
    import fcntl

    descriptor = os.memfd_create("data", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
        seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def find_interpreter() -> str:
    """Return the interpreter itself, not a virtual environment's link to it."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def choose_user() -> int:
    """Return a user id that nobody has: root's limit on processes does not bind, and a shared one counts strangers.

    Raises:
        ServerStartError: This user namespace has no room for one.
    """
    ranges = [tuple(map(int, line.split())) for line in Path("/proc/self/uid_map").read_text().splitlines()]
    for least, greatest in ((_LEAST_USER, _GREATEST_USER), (_LEAST_SMALL_USER, _GREATEST_SMALL_USER)):
        for start, _, count in ranges:
            low, high = max(start, least), min(start + count, greatest)
            if high - low > 1000:
                return low + secrets.randbelow(high - low)
    raise ServerStartError("no unprivileged user id is mapped into this container's user namespace")


def _list_sources() -> list[tuple[str, str]]:
    sources = [("posttrain", ""), ("posttrain.sandbox", "")]
    for module in _MODULES:
        assert module.__file__ is not None
        sources.append((module.__name__, Path(module.__file__).read_text(encoding="utf-8")))
    return sources


def _list_interpreter() -> list[str]:
    # Not -I: it would ignore PYTHONHASHSEED. -P: no folder of the user's in front of the library.
    return [find_interpreter(), "-S", "-s", "-P", "-X", "utf8", "-c", _BOOT]


def _list_wrapper(tier: str) -> list[str]:
    """Return the command line before the interpreter: bubblewrap's, or nothing."""
    if tier != "bubblewrap":
        return []
    program = shutil.which("bwrap")
    if program is None:
        raise ServerStartError("bubblewrap is not installed")
    # As the namespace's first process the server is reaped by bubblewrap, and that by this process: no orphan is left.
    arguments = [
        program,
        "--as-pid-1",
        "--unshare-pid",
        "--unshare-net",
        "--unshare-ipc",
        "--unshare-uts",
        "--unshare-cgroup-try",
    ]
    if os.geteuid() == 0:
        for capability in ("CAP_SYS_ADMIN", "CAP_SETUID", "CAP_SETGID", "CAP_KILL"):
            arguments += ["--cap-add", capability]
    else:
        arguments += ["--unshare-user", "--cap-add", "CAP_SYS_ADMIN"]
    arguments += ["--hostname", "sandbox", "--chdir", "/"]
    interpreter = find_interpreter()
    readable = confinement.list_readable()
    for folder in sorted({str(above) for path in (*readable, interpreter) for above in Path(path).parents} - {"/"}):
        arguments += ["--perms", "0755", "--dir", folder]  # bubblewrap's own would be closed to the child's user
    for path in readable:
        if os.path.islink(path):
            arguments += ["--symlink", os.readlink(path), path]
        else:
            arguments += ["--ro-bind-try", path, path]
    arguments += ["--ro-bind-try", interpreter, interpreter, "--proc", "/proc", "--dir", "/sys"]
    for device in confinement.DEVICES:
        arguments += ["--dev-bind-try", device, device]
    return [*arguments, "--remount-ro", "/", "--"]
