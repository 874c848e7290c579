"""Attacks the sandbox of a tier as whoever runs this, and prints one JSON line for each attack and for what is left.

    python -m tests.sandbox.attack_run landlock

The standard library only, so that any user with any Python can run it.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from posttrain.sandbox.fleet import Fleet
from posttrain.sandbox.programs import Program, ProgramLimits
from posttrain.sandbox.seccomp import _CONDITIONAL, _SETUP_ONLY
from posttrain.sandbox.syscalls import NUMBERS
from tests.sandbox.attacks import ATTACKS, Attack
from tests.sandbox.exhaustion import EXHAUSTION, RECORD

LIMITS = ProgramLimits(cpu_seconds=0.5, wall_seconds=1.0, memory_bytes=128 << 20, output_bytes=1 << 18)
TOKEN = f"hidden-word-{os.getpid()}"


def list_denied() -> list[int]:
    """Return the numbers of every call that is not on the list of allowed ones."""
    allowed = {NUMBERS[name] for name in NUMBERS.keys() - _SETUP_ONLY} | {NUMBERS[name] for name in _CONDITIONAL}
    return [number for number in range(470) if number not in allowed]


def fill(source: str, places: dict[str, object]) -> str:
    """Put the places of this machine into an attack."""
    for name, value in places.items():
        source = source.replace("{" + name + "}", str(value))
    return source


def list_processes(users: set[int | None]) -> set[int]:
    """Return this process's children, and the processes of users that only the sandbox's programs have."""
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                text = (folder / "status").read_text()
                parent = int(text.split("PPid:")[1].split()[0])
                user = int(text.split("Uid:")[1].split()[0])
                if parent == os.getpid() or (user in users and int(folder.name) != os.getpid()):
                    found.add(int(folder.name))
    return found


def list_files() -> list[str]:
    """Return what attacks may have left in folders that anybody may write to."""
    return [path for folder in ("/tmp", "/dev/shm", "/var/tmp") for path in glob.glob(f"{folder}/*{TOKEN}*")]


def listen(folder: str) -> tuple[list[socket.socket], dict[str, object]]:
    """Return live listeners, and where they are."""
    sockets = [socket.socket(socket.AF_INET), socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)]
    name = f"posttrain-test-{os.getpid()}"
    for one, address in zip(sockets, (("127.0.0.1", 0), "\0" + name, f"{folder}/socket"), strict=True):
        one.bind(address)
        one.listen(64)
        one.setblocking(False)
    os.chmod(f"{folder}/socket", 0o777)
    return sockets, {"port": sockets[0].getsockname()[1], "name": name, "socket": f"{folder}/socket"}


def count_callers(sockets: list[socket.socket]) -> int:
    """Return how many connections came."""
    count = 0
    for one in sockets:
        with contextlib.suppress(BlockingIOError):
            while True:
                one.accept()[0].close()
                count += 1
    return count


def attack(tier: str, attacks: list[Attack], folder: str) -> None:
    """Run the attacks, and print what became of them and of this machine."""
    secret = Path(folder) / "secret"
    secret.write_text(TOKEN)
    secret.chmod(0o666)
    os.chmod(folder, 0o777)
    users: set[int | None] = {os.getuid()} - {0}
    before = list_processes(users)
    sockets, places = listen(folder)
    places |= {"secret": secret, "folder": folder, "token": TOKEN, "denied": list_denied()}
    programs = [Program(fill(one.source, places), entry=one.entry) for one in attacks]
    fleet = Fleet(tier, 2)
    results = fleet.run(programs, [LIMITS] * len(programs))
    for one, result in zip(attacks, results, strict=True):
        line = {"name": one.name, "status": result.status, "stdout": result.stdout[:2000], "why": result.why}
        print(json.dumps(line))
    users |= {server.user for server in fleet._all}
    fleet.close()
    deadline = time.monotonic() + 30
    while list_processes(users) - before and time.monotonic() < deadline:
        time.sleep(0.01)  # a namespace that was killed is gone a little later
    is_whole = secret.exists() and secret.read_text() == TOKEN and secret.stat().st_mode & 0o777 == 0o666
    print(json.dumps({
        "name": "aftermath",
        "callers": count_callers(sockets),
        "is_whole": is_whole,
        "folder": sorted(set(os.listdir(folder)) - {"secret", "socket"}),
        "files": list_files(),
        "processes": len(list_processes(users) - before),
    }))  # fmt: skip
    for one in sockets:
        one.close()


def attack_without_sandbox(attacks: list[Attack], folder: str) -> None:
    """Run the attacks as plain processes, which shows that they are real, and print which get through."""
    secret = Path(folder) / "secret"
    sockets, places = listen(folder)
    places |= {"secret": secret, "folder": folder, "token": TOKEN, "denied": []}
    for one in attacks:
        secret.write_text(TOKEN)
        command = [sys.executable, "-c", fill(one.source, places)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        print(json.dumps({"name": one.name, "stdout": (process.stdout.read() or b"").decode("utf-8", "replace")}))
        process.stdout.close()
        process.wait()
    for socket_ in sockets:
        socket_.close()
    for path in list_files():
        shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)


def main() -> None:
    """Attack the tier that the command line names, or `nothing`."""
    os.environ["TOKEN"] = TOKEN
    folder = tempfile.mkdtemp(prefix="posttrain-attacked-")
    try:
        if sys.argv[1] == "nothing":
            attack_without_sandbox([one for one in ATTACKS if one.is_open_without_sandbox], folder)
        else:
            attack(sys.argv[1], [*ATTACKS, *EXHAUSTION, *RECORD], folder)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
