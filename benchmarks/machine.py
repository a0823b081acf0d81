"""What a benchmark ran on."""

import platform
from pathlib import Path


def processor() -> str:
    """Return the processor's name, or its architecture where the system doesn't tell one."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def memory(field: str) -> float:
    """Return the process's VmRSS, or VmHWM, its peak, in MB; getrusage's begins with that of the process that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024 / 1e6
