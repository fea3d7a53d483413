"""Resident memory of this process. Not ru_maxrss, which starts at what the parent process had."""

from pathlib import Path


def peak_mb() -> float:
    """Return the most memory that this process has had resident, in megabytes (Linux)."""
    return _status("VmHWM")


def resident_mb() -> float:
    """Return the memory that this process has resident now, in megabytes (Linux)."""
    return _status("VmRSS")


def _status(field: str) -> float:
    line = next(
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith(field)
    )
    return int(line.split()[1]) / 1024
