"""Peak memory of this process. Not ru_maxrss, which starts at what the parent process had."""

from pathlib import Path


def peak_mb() -> float:
    """Return the most memory that this process has had resident, in megabytes (Linux)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024
