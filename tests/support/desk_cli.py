"""`hitl` on the log of a workplace: its verbs with a log in memory in Kafka's place, and keys in a directory."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

import hitl_stream.cli.main  # noqa: F401  # so that it is in sys.modules, where the package's own `main` cannot hide it
from hitl_stream.cli import erase, preview, reverse, stretch
from hitl_stream.lane.past import Past
from hitl_stream.wire.seal import SealKey
from hitl_stream.wire.topics import TABLE
from hitl_stream.wire.undoing import Undo
from support.log import KEYS, Recorded
from support.make import NOW_MS, acme

VERBS = ("export", "report", "erase", "reverse", "policy")


class Cli:
    """Runs `hitl` at the time of a workplace; `sent` is what it would have written to Kafka."""

    def __init__(self, work: Recorded, directory: Path) -> None:
        self.work = work
        self.directory = directory
        self.keys = directory / "keys"
        self.sent: list[Any] = []

    def __call__(self, *arguments: str) -> int:
        return int(sys.modules["hitl_stream.cli.main"].run([*arguments]))

    def key(self, role: str, key: SealKey, name: str = "") -> None:
        """Put a seal key where the settings look for it."""
        self.keys.mkdir(mode=0o700, exist_ok=True)
        path = self.keys / f"{name or f'seal-{role}'}-{key.key_id}"
        path.write_text(key.key.hex())
        path.chmod(0o600)

    async def retentions(self, client: object, topics: Iterable[str]) -> dict[str, int | None]:
        """Return what the table says."""
        by_name = {self.work.log.topics.name(name): topic.retention_ms for name, topic in TABLE.items()}
        return {topic: by_name[topic] if by_name[topic] >= 0 else None for topic in topics}

    async def nulls(self, client: object, names: object, keys: Mapping[str, Iterable[tuple[int, bytes]]]) -> None:
        """Take what was to be erased."""
        self.sent += [(name, key) for name, each in keys.items() for _, key in sorted(each)]

    async def propose(self, client: object, topics: object, tenant: str, undone: Undo, headers: Any) -> str:
        """Take what was to be proposed."""
        self.sent.append((undone, headers))
        return "hitl.actions/0/1"


def installed(work: Recorded, directory: Path, monkeypatch: pytest.MonkeyPatch, roles: Iterable[str] = KEYS) -> Cli:
    """Return `hitl` on that log; the seal keys of `roles` are here."""
    cli = Cli(work, directory)
    for name in ("KAFKA", "CONFIG", "TENANT", "TRUST", "CONSOLE", "CONSOLE_TOKEN", "CONSOLE_TOKEN_FILE"):
        monkeypatch.delenv(f"HITL_{name}", raising=False)
    policy = directory / "acme.yaml"
    policy.write_text(acme().text)
    monkeypatch.setenv("HITL_POLICY", str(policy))
    monkeypatch.setenv("HITL_STATE_DIR", str(directory))
    monkeypatch.setenv("HITL_PARTITIONS", "1")
    monkeypatch.setenv("HITL_KAFKA", "127.0.0.1:1")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(directory)
    monkeypatch.setattr(sys.modules["hitl_stream.cli.main"], "VERBS", VERBS)

    async def past(*_: object, **__: object) -> Past:
        return Past(None, why="there is no control in this test")

    monkeypatch.setattr(stretch, "read_past", past)
    for module in (stretch, preview):
        monkeypatch.setattr(module, "log_of", lambda settings: work.log)
    for module in (stretch, preview, reverse):
        if hasattr(module, "now_ms"):
            monkeypatch.setattr(module, "now_ms", lambda: max(NOW_MS, work.now_ms) + 1)
    monkeypatch.setattr("hitl_stream.cli.report.now_ms", lambda: work.now_ms + 1)
    monkeypatch.setattr(erase.admin, "retentions", cli.retentions)
    monkeypatch.setattr(erase, "write_nulls", cli.nulls)
    monkeypatch.setattr(reverse, "append", cli.propose)
    for role in roles:
        for key in KEYS[role].values():
            cli.key(role, key)
    return cli
