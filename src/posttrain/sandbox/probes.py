"""The probes of the self-check: attacks that must fail, and features that must work.

An attack prints `open` if it succeeds; whatever is raised against it, or kills it, is the cage at work.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace

from posttrain.sandbox.programs import Program, ProgramLimits, ProgramResult, ProgramStatus

_LIMITS = ProgramLimits(cpu_seconds=5.0, wall_seconds=30.0, memory_bytes=256 << 20, output_bytes=1 << 16)
_BRIEF = replace(_LIMITS, cpu_seconds=0.03)
_SMALL = replace(_LIMITS, memory_bytes=32 << 20)

LANDLOCK_CURE = (
    "Linux from 5.13 on with Landlock (CONFIG_SECURITY_LANDLOCK, and `landlock` in the list of `lsm=`), in a container "
    "whose profile permits its calls"
)
SECCOMP_CURE = (
    "a kernel with seccomp filters (CONFIG_SECCOMP_FILTER), in a container that permits `seccomp` and `prctl`"
)
USER_CURE = (
    "an ordinary user, or root with CAP_SETUID, CAP_SETGID and CAP_KILL, in a container with a range of user ids"
)
LIMIT_CURE = "a kernel and container that apply resource limits (setrlimit)"
BUBBLEWRAP_CURE = (
    "the package `bubblewrap`, where namespaces may be made: unprivileged user namespaces "
    "(`user.max_user_namespaces`, no AppArmor restriction), or root with CAP_SYS_ADMIN"
)
PLATFORM_CURE = "Linux from 5.9 on, on x86_64 or aarch64"
_CURES = {
    "landlock": LANDLOCK_CURE,
    "seccomp": SECCOMP_CURE,
    "setres": USER_CURE,
    "setgroups": USER_CURE,
    "user id": USER_CURE,
    "no number known": PLATFORM_CURE,
    "no table": PLATFORM_CURE,
    "bwrap": BUBBLEWRAP_CURE,
    "bubblewrap": BUBBLEWRAP_CURE,
}


def find_cure(tier: str, found: str) -> str:
    """Return what to do about a tier that cannot start, by what was found."""
    for word, cure in _CURES.items():
        if word in found:
            return cure
    return BUBBLEWRAP_CURE if tier == "bubblewrap" else LANDLOCK_CURE


@dataclass(frozen=True, slots=True)
class Probe:
    """A program of the self-check, what must become of it, and what to do about a machine where it does not."""

    name: str
    program: Program
    expected: ProgramStatus = "ok"
    stdout: str | None = None
    limits: ProgramLimits = _LIMITS
    cure: str = ""

    def passes(self, result: ProgramResult) -> bool:
        """Return whether a result is as it must be."""
        if self.stdout is None and self.expected == "ok":  # an attack: it may fail in any way but the harness's
            return "open" not in result.stdout and result.status in ("ok", "raised", "crash")
        return result.status == self.expected and self.stdout in (None, result.stdout)


def _attack(name: str, source: str, cure: str) -> Probe:
    return Probe(f"blocked: {name}", Program(source + "\nprint('open')"), cure=cure)


def _limit(name: str, source: str, status: ProgramStatus, limits: ProgramLimits = _LIMITS) -> Probe:
    return Probe(f"bounded: {name}", Program(source), expected=status, limits=limits, cure=LIMIT_CURE)


def _feature(name: str, source: str, stdin: str = "") -> Probe:
    return Probe(
        f"works: {name}", Program(source, stdin=stdin), stdout="fine\n", cure="report this: the cage is too tight"
    )


def list_probes(secret_path: str) -> list[Probe]:
    """Return the probes.

    Args:
        secret_path: A file that this process can read and no program may.
    """
    probes = [
        _attack("reading a file of the user", f"open({secret_path!r}).read()", LANDLOCK_CURE),
        _attack("seeing the user's folders", _FOLDERS, LANDLOCK_CURE),
        _attack("listing processes", "import os; os.listdir('/proc/self/fd')", LANDLOCK_CURE),
        _attack("writing files", _WRITE, LANDLOCK_CURE),
        _attack("network sockets", "import socket; socket.socket(socket.AF_INET)", SECCOMP_CURE),
        _attack("unix sockets", "import socket; socket.socket(socket.AF_UNIX)", SECCOMP_CURE),
        _attack("fork", "import os\nif not os.fork(): os._exit(0)", SECCOMP_CURE),
        _attack("raw clone", _CALL.format("clone", "17, None, None, None, None"), SECCOMP_CURE),
        _attack("running other programs", "import os; os.execv('/bin/true', ['true'])", SECCOMP_CURE),
        _attack("signalling the parent process", "import os; os.kill(os.getppid() or 1, 0)\n" + _IS_OWN, SECCOMP_CURE),
        _attack("tracing", _FUNCTION.format("ptrace", "0, 0, 0, 0"), SECCOMP_CURE),
        _attack("files in memory", "import os; os.memfd_create('x')", SECCOMP_CURE),
        _attack("new user namespaces", _FUNCTION.format("unshare", "0x10000000"), SECCOMP_CURE),
        _attack(
            "being root", "import os\nassert os.getuid() and os.geteuid() and os.getgid()\nos.setuid(0)", USER_CURE
        ),
        _attack("the environment", "import os; assert os.environ", SECCOMP_CURE),
        _attack("descriptors left open", _DESCRIPTORS, SECCOMP_CURE),
        _limit("CPU time", "while True: pass", "timeout", _BRIEF),
        _limit("memory", "x = bytearray(64 << 20)", "memory", _SMALL),
        _limit("output", "while True: print('x' * 1000)", "output"),
        _limit("threads", _THREADS, "raised"),
        _feature("standard library", "import unicodedata, zlib, decimal, heapq; print('fine')"),
        _feature("standard input", "print(input())", "fine\n"),
        _feature("threads", "import threading; threading.Thread(target=print, args=('fine',)).start()"),
    ]
    if platform.machine() == "x86_64":
        probes.append(Probe("blocked: 32-bit calls", Program(_CALL_32_BIT), expected="crash", cure=SECCOMP_CURE))
    return probes


# Under bubblewrap the root folder holds the way to the library alone, and may be listed.
_FOLDERS = "import os\nassert {'home', 'tmp', 'var', 'boot', 'srv'} & set(os.listdir('/'))"
_WRITE = """
import os, tempfile
for folder in ("/tmp", "/dev/shm", "/var/tmp", "/", ".", "/run"):
    try:
        descriptor = os.open(os.path.join(folder, "probe-of-the-sandbox"), os.O_CREAT | os.O_WRONLY, 0o600)
    except OSError:
        continue
    break
else:
    raise OSError("nowhere")
"""
_FUNCTION = "import ctypes\nassert ctypes.CDLL(None).{0}({1}) >= 0"
_CALL = """
import ctypes, platform, os
number = {{"clone": {{"x86_64": 56, "aarch64": 220}}}}["{0}"][platform.machine()]
process = ctypes.PyDLL(None).syscall(number, {1})
if process == 0:
    os._exit(0)
assert process > 0
"""
_IS_OWN = "assert os.getppid()"
_DESCRIPTORS = """
import os
for descriptor in range(3, 1024):
    try:
        os.fstat(descriptor)
    except OSError:
        continue
    break
else:
    raise OSError("none")
"""
_THREADS = """
import threading
threading.stack_size(65536)
release = threading.Event()
for _ in range(2000):
    threading.Thread(target=release.wait, daemon=True).start()
"""
# mov eax, 20 (getpid on i386); int 0x80; ret
_CALL_32_BIT = """
import ctypes, mmap
code = mmap.mmap(-1, 4096, prot=7)
code.write(bytes([0xB8, 20, 0, 0, 0, 0xCD, 0x80, 0xC3]))
print(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))())
"""
