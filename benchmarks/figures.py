"""What all benchmarks say of a machine, and how they take quantiles."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime


def machine() -> str:
    """Return date, cores, memory, system and Python, in one line."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    system = f"{platform.system()} {platform.release()}"
    cores, python = os.cpu_count(), platform.python_version()
    return f"{datetime.now(UTC):%Y-%m-%d}, {cores} cores, {memory:.0f} GiB, {system}, Python {python}"


def quantile(values: Sequence[float], q: float) -> float:
    """Return the value at rank ⌈q·n⌉; 0 where there is none."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(q * 1_000) * len(ordered) // 1_000) - 1)] if ordered else 0.0
