"""C source compiled once on the machine that runs it, and loaded: no build step, no wheel for each processor.

The compiler is `$CC`, or the first of cc, gcc and clang. A library is kept under the user's cache folder
(`$XDG_CACHE_HOME/posttrain/libraries`, default `~/.cache`) by the hash of its source, of the compiler and of the
processor, so that a second start compiles nothing. Without a compiler, or with `POSTTRAIN_COMPILE=0`, callers do
without; they say so to the user.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from posttrain.core.hashing import hash_json

COMPILE_VARIABLE = "POSTTRAIN_COMPILE"
_COMPILERS = ("cc", "gcc", "clang")
_COMPILE_SECONDS = 120
# Contraction of products and sums into one rounding is allowed; changing their order is not.
_FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-w")
_OPENMP_NAME = re.compile(r"lib(gomp|iomp5|omp)[^/]*\.so[^/]*$")


class NativeUnavailableError(Exception):
    """A library cannot be compiled or loaded here; the text says why, for a person."""


@functools.cache
def has_triton() -> bool:
    """Return whether Triton is installed, which compiles kernels for a GPU: torch's wheels for NVIDIA GPUs bring it."""
    return importlib.util.find_spec("triton") is not None


def load_library(source: Path, defines: Mapping[str, int], headers: Sequence[Path] = ()) -> ctypes.CDLL:
    """Return a library compiled from a C file with macros defined, from the cache where it is there.

    `headers` are the files that the source includes from its own folder. The library shares the OpenMP threads that
    are loaded already (torch's), since two pools would wait for each other; where none are found it runs on one.

    Raises:
        NativeUnavailableError: There is no compiler, compiling is switched off, or it fails.
    """
    compiler = _find_compiler()
    openmp = find_openmp()
    target = "-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native"
    flags = [*_FLAGS, target, *(f"-D{name}={value}" for name, value in sorted(defines.items()))]
    texts = [path.read_text(encoding="utf-8") for path in (source, *headers)]
    name = hash_json([texts, flags, compiler, _describe(compiler), _describe_processor(), openmp or ""])
    folder = _open_folder()
    path = folder / f"{source.stem}-{name[:32]}.so"
    if not path.exists():
        _compile(compiler, source, flags, openmp, path)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise NativeUnavailableError(f"the compiled library cannot be loaded: {error}") from error


def find_openmp() -> str | None:
    """Return the path of the OpenMP runtime that this process has loaded, or None."""
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as lines:
            paths = {line.split(maxsplit=5)[5].rstrip("\n") for line in lines if line.count(" ") >= 5 and "/" in line}
    except OSError:
        return None
    return min((path for path in paths if _OPENMP_NAME.search(path) and Path(path).exists()), default=None)


def describe_compiler() -> str:
    """Return the compiler that kernels are made with, or `none`: part of what decides the bits of a result."""
    try:
        return _describe(_find_compiler())
    except NativeUnavailableError:
        return "none"


def _find_compiler() -> str:
    if os.environ.get(COMPILE_VARIABLE, "1") == "0":
        raise NativeUnavailableError(f"compiling is switched off ({COMPILE_VARIABLE}=0)")
    wanted = [os.environ["CC"]] if os.environ.get("CC") else list(_COMPILERS)
    for name in wanted:
        path = shutil.which(name)
        if path is not None:
            return path
    raise NativeUnavailableError(f"no C compiler was found (looked for {', '.join(wanted)})")


@functools.cache
def _describe(compiler: str) -> str:
    return _run([compiler, "--version"]).splitlines()[0]


def _describe_processor() -> str:
    """Return what tells processors with other instructions apart, where several machines share a cache folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())


def _open_folder() -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = root / "posttrain" / "libraries"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = folder.stat()
    except OSError as error:
        raise NativeUnavailableError(f"the cache folder {folder} cannot be made: {error.strerror}") from error
    # What lies there is loaded into this process.
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise NativeUnavailableError(f"the cache folder {folder} can be written by others")
    return folder


def _compile(compiler: str, source: Path, flags: list[str], openmp: str | None, path: Path) -> None:
    threads = ["-fopenmp"] if openmp else []
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".tmp-") as folder:
            compiled, library = str(Path(folder) / "library.o"), str(Path(folder) / "library.so")
            _run([compiler, *flags, *threads, "-c", str(source), "-o", compiled])
            _run([compiler, "-shared", compiled, *([openmp] if openmp else []), "-lm", "-o", library])
            os.replace(library, path)
    except OSError as error:
        raise NativeUnavailableError(f"{path} cannot be written: {error.strerror}") from error


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMPILE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NativeUnavailableError(f"{command[0]} failed: {error}") from error
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise NativeUnavailableError(f"{command[0]} failed: {last[0]}")
    return done.stdout
