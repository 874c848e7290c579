"""What the machine can do, measured in the process that is being measured: product rate and peak memory."""

from __future__ import annotations

import os
import platform
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch

CPU_PRODUCT_SIZE = 2048
GPU_PRODUCT_SIZE = 8192


def find_device(wanted: str) -> torch.device:
    """Return the device to measure on: `cpu`, `cuda`, or the best one present for `auto`."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def measure_product_rate(device: torch.device, *, size: int | None = None, repeats: int = 8) -> float:
    """Return the best rate of a square bf16 matrix product, in GFLOP/s (2 n^3 operations each)."""
    size = size or (GPU_PRODUCT_SIZE if device.type == "cuda" else CPU_PRODUCT_SIZE)
    generator = torch.Generator(device=device).manual_seed(0)
    left, right = (torch.randn(size, size, generator=generator, device=device).bfloat16() for _ in range(2))
    best = float("inf")
    for _ in range(repeats):
        synchronise(device)
        start = time.perf_counter()
        torch.mm(left, right)
        synchronise(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 1e9


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has done what it was given; does nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory_bytes(device: torch.device) -> int:
    """Return the most memory this process has held: resident on a CPU, allocated on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peak_memory_of_tree_bytes() -> int:
    """Return the most memory that this process and those it has started have each held, summed (Linux).

    Pages that they share are counted for each.
    """
    parents: dict[int, int] = {}
    peaks: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            lines = (folder / "status").read_text(encoding="utf-8").splitlines()
        except OSError:  # it has ended since
            continue
        fields = dict(line.split(":", 1) for line in lines if ":" in line)
        parents[int(folder.name)] = int(fields["PPid"])
        peaks[int(folder.name)] = int(fields.get("VmHWM", "0 kB").split()[0]) * 1024
    return sum(peak for process, peak in peaks.items() if os.getpid() in _list_ancestors(process, parents))


def _list_ancestors(process: int, parents: dict[int, int]) -> list[int]:
    """Return a process and those it descends from."""
    line = [process]
    while (parent := parents.get(line[-1], 0)) and parent not in line:
        line.append(parent)
    return line


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Return what a figure must be read with: processor, threads, versions, load."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_1_minute": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _processor_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
