"""Attacks on the sandbox, each a program that prints `open` where it gets through. The standard library only.

`{secret}` stands for a file that the attacked user owns and others may read, `{folder}` for its folder, `{port}`,
`{name}` and `{socket}` for live listeners (TCP on loopback, an abstract socket, a socket in the folder), `{token}` for
a word in the attacked process's environment, `{denied}` for the numbers of the calls that no program may make.
"""

# ruff: noqa: E501 - a line of the list is a line of an attack
from __future__ import annotations

from dataclasses import dataclass

BLOCKED = ("ok", "raised", "crash")
LIMITED = ("timeout", "memory", "output")


@dataclass(frozen=True)
class Attack:
    """A program, and what may become of it; nothing may print `open`."""

    name: str
    source: str
    statuses: tuple[str, ...] = BLOCKED
    entry: str | None = None
    is_open_without_sandbox: bool = True


def tries(name: str, *expressions: str, setup: str = "", is_open: bool = True) -> Attack:
    """Return an attack of several expressions, every one of which must raise or give a negative number."""
    lines = [setup, "import os, ctypes, sys", "libc = ctypes.CDLL(None, use_errno=True)"]
    for expression in expressions:
        lines += [
            "try:",
            f"    value = {expression}",
            "except Exception:",
            "    pass",
            "else:",
            f"    print('open', {expression!r}) if not (type(value) is int and value < 0) else None",
        ]
    return Attack(name, "\n".join(lines), is_open_without_sandbox=is_open)


CONNECT = "(lambda s: s.connect({address}) or 1)(__import__('socket').socket({family}, 1))"
LIBRARY = "import os, sys\nroot = os.path.dirname(os.__file__)"

ATTACKS = [
    tries("tcp on loopback", CONNECT.replace("{address}", "('127.0.0.1', {port})").replace("{family}", "2")),
    tries("abstract socket", CONNECT.replace("{address}", "'\\0{name}'").replace("{family}", "1")),
    tries("socket in a folder", CONNECT.replace("{address}", "'{socket}'").replace("{family}", "1")),
    tries("udp", "__import__('socket').socket(2, 2).sendto(b'x', ('127.0.0.1', {port}))"),
    tries("kernel sockets", *[f"__import__('socket').socket({family}, 3)" for family in (16, 17, 38, 40)]),
    tries("datagram pair", "__import__('socket').socketpair(1, 2)"),
    tries("address over a pair", "pair[0].sendto(b'x', '\\0{name}')", "pair[0].sendmsg([b'x'])", "pair[0].listen()",
          "pair[0].bind('\\0other')", setup="import socket\npair = socket.socketpair()"),
    tries("file of the user", "open('{secret}').read()", "os.open('{secret}', os.O_PATH)"),
    tries("folder of the user", "os.listdir('{folder}')", "os.listdir('/root')", "os.listdir('/home')",
          "os.listdir(os.path.expanduser('~'))"),
    tries("system files", "open('/etc/passwd').read()", "open('/etc/hostname').read()", "open('/etc/shadow').read()"),
    tries("root folder", "os.listdir('/')", "os.listdir('/tmp')", "os.listdir('/var')"),
    tries("walking up from the library", "open(root + '/../../../../../../../../..{secret}').read()",
          "os.listdir(root + '/../../../../../../../..')", setup=LIBRARY),
    tries("walking up from the working folder", "open('../../../../../../../../../..{secret}').read()",
          "os.listdir('..')", "[os.chdir('/'), open('etc/passwd').read()]"),
    tries("symbolic links", "os.symlink('{secret}', '{folder}/link')", "os.symlink('/etc', root + '/link')",
          "os.symlink('/etc', '/tmp/link')", setup=LIBRARY),
    tries("hard links", "os.link('{secret}', '{folder}/hard')", "os.link('{secret}', '/tmp/hard-{token}')"),
    tries("writing in folders", *[f"os.open('{folder}/written-{{token}}', os.O_CREAT | os.O_RDWR, 0o600)" for folder in
          ("{folder}", "/tmp", "/dev/shm", "/var/tmp", "/run", "/dev", ".", "/", "/proc", "/sys")]),
    tries("writing into the library", "open(root + '/os.py', 'a')", "open(root + '/new.py', 'w')", setup=LIBRARY,
          is_open=False),
    tries("making folders", "os.mkdir('/tmp/made-{token}')", "os.mkdir('{folder}/made')", "os.mkfifo('/tmp/p-{token}')"),
    tries("changing files", "os.truncate('{secret}', 0)", "os.chmod('{secret}', 0o777)", "os.utime('{secret}')",
          "os.rename('{secret}', '{secret}2')", "os.unlink('{secret}')", "os.setxattr('{secret}', 'user.x', b'')"),
    tries("own process files", "open('/proc/self/environ').read()", "os.listdir('/proc/self/fd')",
          "open('/proc/self/mem', 'r+b')", "open('/proc/self/maps').read()", "os.listdir('/proc')"),
    tries("files of other processes", *[f"open('/proc/{who}/{what}', 'rb').read(1)" for who in
          ("1", "' + str(os.getppid()) + '") for what in ("environ", "mem", "cmdline", "root/etc/passwd")]),
    tries("kernel files", "open('/sys/kernel/mm/transparent_hugepage/enabled').read()", "os.listdir('/sys/class')",
          "open('/proc/sys/kernel/hostname').read()", "open('/dev/kmsg')", "open('/dev/mem')", "open('/dev/tty', 'w')"),
    tries("changing the root", "os.chroot('/tmp') or 1", "libc.mount(b'none', b'/tmp', b'tmpfs', 0, None)",
          "libc.umount2(b'/proc', 2)", "libc.pivot_root(b'/', b'/')", is_open=False),
    Attack("environment", "import ctypes, os\nprint('open') if os.environ else None\n"
           "environ = ctypes.POINTER(ctypes.c_char_p).in_dll(ctypes.CDLL(None), 'environ')\nnumber = 0\n"
           "while environ and environ[number]:\n    print('open') if b'{token}' in environ[number] else None\n    number += 1"),
    Attack("arguments", "import sys\nprint('open') if any('{token}' in word for word in sys.argv + sys.orig_argv) else None",
           is_open_without_sandbox=False),
    tries("memory of the parent", "libc.process_vm_readv(os.getppid(), ctypes.byref(vector), 1, ctypes.byref(vector), 1, 0)",
          "libc.ptrace(16, os.getppid(), 0, 0)", "libc.ptrace(0, 0, 0, 0)", "os.pidfd_open(os.getppid() or 1)",
          setup="import ctypes\nvector = (ctypes.c_size_t * 2)(0, 0)", is_open=False),
    tries("signalling others", "os.kill(os.getppid() or 2, 0) or 1", "os.kill(-1, 0) or 1", "os.kill(0, 0) or 1",
          "os.killpg(os.getpgid(0), 0) or 1", "os.kill(os.getpid() + 1, 0) or 1", is_open=False),
    Attack("killing the parent", "import os\nos.kill(os.getppid(), 9)\nprint('open')", is_open_without_sandbox=False),
    tries("slowing others", "os.setpriority(os.PRIO_USER, 0, 5) or 1", "os.setpriority(os.PRIO_PGRP, 0, 19) or 1",
          "os.sched_setaffinity(os.getppid() or 2, [0]) or 1", "libc.syscall(251, 3, 0, 0)",
          "__import__('resource').prlimit(os.getppid() or 2, 7, (1, 1))", is_open=False),
    tries("fork", "(lambda p: p or os._exit(0))(os.fork())", "(lambda p: p[0] or os._exit(0))(os.forkpty())"),
    Attack("vfork", "import ctypes, os, platform\nnumber = 58 if platform.machine() == 'x86_64' else 220\n"
           "child = ctypes.PyDLL(None).syscall(number, 17 if number == 220 else 0, 0, 0, 0, 0)\n"
           "os._exit(0) if child == 0 else None\nprint('open') if child > 0 else None", is_open_without_sandbox=False),
    Attack("clone", "import ctypes, os, platform\nnumber = 56 if platform.machine() == 'x86_64' else 220\n"
           "for flags in (17, 0x10000000 | 17, 0x20000000 | 17, 0x40000000 | 17, 0x8000 | 17):\n"
           "    child = ctypes.PyDLL(None).syscall(number, flags, 0, 0, 0, 0)\n"
           "    os._exit(0) if child == 0 else None\n    print('open', flags) if child > 0 else None"),
    tries("clone3", "libc.syscall(435, ctypes.create_string_buffer(88), 88)"),
    tries("spawning", "os.posix_spawn('/bin/true', ['true'], {})", "__import__('subprocess').run(['/bin/true'])",
          "-1 if os.system('true') else 1"),
    Attack("exec", "import os\nos.execv('/bin/echo', ['echo', 'open'])"),
    Attack("exec of a descriptor", "import os\nos.execve(os.open('/usr/bin/echo', os.O_RDONLY), ['echo', 'open'], {})"),
    Attack("daemon", "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(5)\n"
           "    os._exit(0)\nprint('open')"),
    Attack("worker processes", "import multiprocessing\nwith multiprocessing.get_context('fork').Pool(1) as pool:\n"
           "    print('open', pool.map(str, [1]))", is_open_without_sandbox=False),
    tries("user namespaces", "libc.unshare(0x10000000)", "libc.unshare(0x20000)", "libc.unshare(0x40000000)",
          "libc.setns(0, 0)"),
    tries("other users", "os.setuid(0) or 1", "os.seteuid(0) or 1", "os.setresuid(0, 0, 0) or 1", "os.setgid(0) or 1",
          "os.setgroups([0]) or 1", "libc.setfsuid(0) and -1", is_open=False),
    Attack("capabilities", "import ctypes, struct\nprint('open') if ctypes.CDLL(None).capset(struct.pack('<Ii', 0x20080522, 0), "
           "struct.pack('<6I', 8, 8, 0, 0, 0, 0)) >= 0 else None", is_open_without_sandbox=False),
    Attack("denied calls", "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nfor number in {denied}:\n"
           "    if libc.syscall(number, -1, -1, -1, -1, -1, -1) >= 0 or ctypes.get_errno() not in (1, 38):\n"
           "        print('open', number, ctypes.get_errno())", is_open_without_sandbox=False),
    tries("process control", *[f"libc.prctl({option}, 1, 0, 0, 0)" for option in (1, 4, 8, 22, 24, 31, 33, 35, 36, 59)],
          is_open=False),
    tries("descriptor control", "__import__('fcntl').fcntl(0, 8, os.getpid()) or 1", "__import__('fcntl').fcntl(0, 10, 9) or 1",
          "__import__('fcntl').fcntl(1, 1031, 1 << 20)", "__import__('fcntl').ioctl(0, 0x5412, b'x')",
          "__import__('fcntl').lockf(0, 2) or 1"),
    tries("input that is shared memory", "os.ftruncate(0, 1 << 30) or 1", "os.write(0, b'x')",
          "os.posix_fallocate(0, 0, 1 << 20) or 1", is_open=False),
    Attack("32-bit calls", "import ctypes, mmap\ncode = mmap.mmap(-1, 4096, prot=7)\n"
           "code.write(bytes([0xB8, 20, 0, 0, 0, 0xCD, 0x80, 0xC3]))\n"
           "print('open', ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))())", ("crash",)),
    Attack("x32 calls", "import ctypes\nprint('open', ctypes.CDLL(None).syscall(0x40000000 | 39))", ("crash",),
           is_open_without_sandbox=False),
    tries("limits raised", "resource.setrlimit(resource.RLIMIT_AS, (-1, -1)) or 1",
          "resource.setrlimit(resource.RLIMIT_CPU, (-1, -1)) or 1", "resource.setrlimit(resource.RLIMIT_NPROC, (9999, 9999)) or 1",
          "resource.setrlimit(resource.RLIMIT_NOFILE, (9999, 9999)) or 1", "resource.setrlimit(resource.RLIMIT_FSIZE, (9, 9)) or 1",
          setup="import resource", is_open=False),
]  # fmt: skip
