"""Uses the sandbox on a machine that lacks things, and prints what comes of it as JSON. The standard library only.

    python -m tests.sandbox.hobbled_run namespaces landlock seccomp descriptors -- auto safe

A filter of system calls takes away: user and other `namespaces`, `landlock`, `seccomp`, the change of `users`.
`threads` gives this user many. After `--` come the tier and whether running without a sandbox is allowed.
"""

from __future__ import annotations

import errno
import json
import sys
import threading

from posttrain.sandbox.programs import Program, ProgramLimits
from posttrain.sandbox.running import ProgramPool, SandboxUnavailableError
from posttrain.sandbox.seccomp import (
    _ALLOW,
    _ERRNO,
    _JUMP_EQUAL,
    _give,
    _instruction,
    _load,
    prepare_installation,
)
from posttrain.sandbox.syscalls import NUMBERS, call, make_call
from tests.sandbox.exhaustion import CLONED_THREADS

_JUMP_ANY = 0x45  # jumps if any bit is set
_NEW_NAMESPACES = 0x7E020080
CALLS = {
    "namespaces": ("unshare",),
    "landlock": ("landlock_create_ruleset",),
    "seccomp": ("seccomp",),
    "users": ("setresuid", "setresgid"),
}


def hobble(lacking: list[str]) -> None:
    """Take away system calls from this process and all that it starts."""
    program = _load(0)
    for name in lacking:
        for one in CALLS.get(name, ()):
            program += [_instruction(_JUMP_EQUAL, 0, 1, NUMBERS[one]), _give(_ERRNO | errno.EPERM)]
    if "namespaces" in lacking:
        program += [
            _instruction(_JUMP_EQUAL, 0, 1, NUMBERS["clone3"]),
            _give(_ERRNO | errno.ENOSYS),
            _instruction(_JUMP_EQUAL, 0, 3, NUMBERS["clone"]),
            *_load(16),
            _instruction(_JUMP_ANY, 0, 1, _NEW_NAMESPACES),
            _give(_ERRNO | errno.EPERM),
        ]
    filter_ = b"".join([*program, _give(_ALLOW)])
    call("prctl", 38, 1, 0, 0, 0)
    make_call(prepare_installation(filter_))


def run(tier: str, allow_unsafe: bool) -> dict[str, object]:
    """Return what a pool makes of this machine."""
    programs = [
        Program("print(6 * 7)"),
        Program("import threading\nthreads = [threading.Thread(target=print, args=(number,)) for number in range(8)]\n"
                "for thread in threads: thread.start()\nfor thread in threads: thread.join()"),
        Program(CLONED_THREADS),
    ]  # fmt: skip
    limits = ProgramLimits(cpu_seconds=5.0, memory_bytes=512 << 20)
    try:
        with ProgramPool(1, tier=tier, allow_unsafe=allow_unsafe, limits=limits) as pool:
            results = pool.run(programs)
            found = pool.self_check
            return {
                "tier": pool.tier,
                "is_safe": found.is_safe,
                "failures": [[one.tier, one.name, one.found] for one in found.failures],
                "results": [[one.status, one.stdout, one.why] for one in results],
            }
    except SandboxUnavailableError as error:
        return {"error": error.to_json()}


def main() -> None:
    """Take away, run, print."""
    split = sys.argv.index("--")
    lacking, (tier, safety) = sys.argv[1:split], sys.argv[split + 1 :]
    release = threading.Event()
    threading.stack_size(65536)
    if "threads" in lacking:
        for _ in range(200):
            threading.Thread(target=release.wait, daemon=True).start()
    hobble(lacking)
    print(json.dumps(run(tier, safety == "unsafe")))
    release.set()


if __name__ == "__main__":
    main()
