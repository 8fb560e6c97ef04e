"""How much memory another process holds, now and at most: Linux keeps the most it ever had until told to forget it."""

from __future__ import annotations

from pathlib import Path


def memory_kb(pid: int, name: str) -> int:
    """A line of the process's status: `VmRSS` is what it holds now, `VmHWM` the most since `forget_peak`."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1])


def forget_peak(pid: int) -> int:
    """Memory now, which is the most from now on."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return memory_kb(pid, "VmRSS")
