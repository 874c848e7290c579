"""Starts a fork server of a tier, and talks to it.

The server's source travels in a descriptor, so that the server needs neither this package's files nor anything else
of the user's to be readable where it runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

from posttrain.core.errors import SandboxError
from posttrain.sandbox import confinement, execution, landlock, plain_data, seccomp, server, syscalls, tasks
from posttrain.sandbox.verdicts import Report

TIERS = ("bubblewrap", "landlock", "unsafe")
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
    """One fork server: its process, the socket that it is spoken to over, and the user its programs become.

    It can be spoken to at once; it begins when it is ready. `failure` says why it could not start.

    Raises:
        ServerStartError: There is no process to start, or none can be started.
    """

    def __init__(self, tier: str) -> None:
        self.tier = tier
        self.failure = ""
        self.is_ready = self.is_gone = False
        self.user = choose_user() if os.geteuid() == 0 else None
        command = [*_list_wrapper(tier), *_list_interpreter()]
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._errors = os.memfd_create("errors")
        owner = os.pidfd_open(os.getpid())
        settings = {"tier": tier, "control": theirs.fileno(), "owner": owner, "user": self.user}
        program = make_memory_file(json.dumps(settings | {"sources": _list_sources()}).encode())
        try:
            self.process = subprocess.Popen(
                [*command, str(program)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                pass_fds=[theirs.fileno(), owner, program],
                start_new_session=True,
                cwd="/",
                env={"PYTHONHASHSEED": "0", "LD_BIND_NOW": "1"},  # bound once here, not in every child
            )
        except OSError as error:
            self.control.close()
            os.close(self._errors)
            raise ServerStartError(f"the fork server cannot be started: {error}") from error
        finally:
            theirs.close()  # so that the end of a server that cannot start is seen
            os.close(owner)
            os.close(program)

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

    def read_message(self) -> Report | None:
        """Return the report on a program that has ended; None for the word that the server is ready, or if it is gone.

        `is_gone` tells these two apart.
        """
        message = b""
        with contextlib.suppress(OSError):
            try:
                message = self.control.recv(256)
            except ConnectionResetError:  # told first where a server ends without having read all; its words come next
                message = self.control.recv(256)
        if len(message) == server.REPORT.size:
            number, ending, status, cpu_seconds = server.REPORT.unpack(message)
            return Report(number, server.ENDINGS[ending], status, cpu_seconds)
        if message == server.READY and not self.is_ready:
            self.is_ready = True
            return None
        self.is_gone = True
        if not self.is_ready:
            said = os.pread(self._errors, 4096, 0).decode("utf-8", "replace").strip().splitlines()
            words = message.decode("utf-8", "replace").removeprefix("failed ") or (said[-1] if said else "it ended")
            self.failure = f"the fork server cannot be started: {words}"
        return None

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
        if self._errors >= 0:
            os.close(self._errors)
            self._errors = -1


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
