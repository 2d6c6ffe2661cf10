"""Starts `hitl run console` in a world that is worse: it dies (SIGKILL) once a verdict is appended, before it answers.

It does so while the file that HITL_DIE_IF names is there, and takes that away first, so that it dies once. Product code
never reads this variable.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from hitl_stream.cli.main import run
from hitl_stream.console.append import KafkaWriter


def main() -> int:
    file = Path(os.environ.pop("HITL_DIE_IF"))
    append = KafkaWriter.append

    async def and_die(self: KafkaWriter, topic: str, *arguments: Any, **named: Any) -> Any:
        place = await append(self, topic, *arguments, **named)
        if topic == "verdicts":
            die_once(file)
        return place

    KafkaWriter.append = and_die  # type: ignore[method-assign]
    return run(["run", "console"])


def die_once(file: Path) -> None:
    """Die while the file is there; it is there no more."""
    if file.exists():
        file.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
