"""`hitl console rebuild`: the view is dropped, claims stay, and a console that runs on it reads anew."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import hitl_stream.cli.main  # noqa: F401  # so that it is in sys.modules, where the package's own `main` cannot hide it
from hitl_stream.console.store import Viewer
from hitl_stream.console.view import SqlStore, open_view
from support.console import run as within
from support.make import NOW_MS, FakeRecord
from support.view import ends, folded, judged, lot, result, review

Hitl = Callable[..., tuple[int, str, str]]
ANA = Viewer("ana", ("acme",), ("trading",))


@pytest.fixture
def hitl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Hitl:
    """Run `hitl console` with these arguments; return its exit code, stdout and stderr."""
    for name in [name for name in os.environ if name.startswith("HITL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HITL_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.chdir(tmp_path)

    def ask(*arguments: str) -> tuple[int, str, str]:
        code = int(sys.modules["hitl_stream.cli.main"].run(["console", *arguments]))
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return ask


async def fold(store: SqlStore, *records: FakeRecord) -> bool:
    changes = folded(*records)
    return await store.apply(changes, ends(changes))


def test_a_rebuild_says_what_it_dropped_and_a_running_console_is_told_to_read_anew(tmp_path: Path, hitl: Hitl):
    async def scenario() -> tuple[int, str, str]:
        running = open_view(tmp_path / "view.db")
        try:
            await running.offsets()
            await fold(running, review("i1", 1), review("i2", 2), lot(offset=3), judged(offset=1), result(1))
            await running.claim("i1", ANA, NOW_MS)
            told = await asyncio.to_thread(hitl, "rebuild")
            assert not await fold(running, review("i3", 4)), "it is told to begin anew"
            assert await running.offsets() == {}
            assert await running.next(ANA, NOW_MS, limit=9) == ()
            assert [one.item for one in await running.held("ana", NOW_MS)] == ["i1"]
            return told
        finally:
            await running.close()

    code, out, err = within(scenario())

    assert code == 0, err
    assert f"The view {tmp_path / 'view.db'} is dropped: 2 items, 1 batches, 2 records" in out


def test_a_rebuild_as_json_tells_how_much_was_dropped(tmp_path: Path, hitl: Hitl):
    async def scenario() -> None:
        store = open_view(tmp_path / "other.db")
        await store.offsets()
        await fold(store, review("i1", 1))
        await store.close()

    within(scenario())
    code, out, err = hitl("rebuild", "--json", "--store", str(tmp_path / "other.db"))

    assert (code, json.loads(out)) == (0, {"items": 1, "batches": 0, "records": 0}), err


def test_where_there_is_no_view_none_is_made(tmp_path: Path, hitl: Hitl):
    code, _, err = hitl("rebuild")

    assert (code, "there is no view" in err) == (2, True)
    assert not (tmp_path / "view.db").exists()
