#!/usr/bin/env python3
"""Writes the dashboards of `grafana/dashboards/`; run it after a change and commit what it wrote."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # a script, not an installed package

from boards import internals, kill_switches, operate_now, vigilance

DASHBOARDS = Path(__file__).parent / "dashboards"
BOARDS = {
    "operate-now.json": operate_now.board,
    "review-and-vigilance.json": vigilance.board,
    "kill-switches.json": kill_switches.board,
    "pipeline-internals.json": internals.board,
}


def built() -> dict[str, str]:
    """Return what each file of `dashboards/` must hold."""
    return {name: json.dumps(board(), indent=2, ensure_ascii=False) + "\n" for name, board in BOARDS.items()}


def main() -> int:
    """Write the dashboards."""
    for name, text in built().items():
        (DASHBOARDS / name).write_text(text, "utf-8")
        print(f"wrote {DASHBOARDS / name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
