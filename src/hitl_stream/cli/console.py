"""`hitl console rebuild`: the view that consoles work from is dropped, and read from Kafka anew.

The log is the truth, and the view a fold over it: nothing is lost by it, and who holds an item keeps it. While a
console reads it anew, its pages show what it has read by then.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from cyclopts import App

from hitl_stream.cli.settings import NO_FLAGS, Json, SettingsFlags
from hitl_stream.cli.terminal import emit, out
from hitl_stream.core.errors import SettingsError, UsageError
from hitl_stream.core.escape import escaped


def register(app: App) -> None:
    """Add the verbs."""
    console = App(name="console", help="See to the view that consoles work from.")
    console.command(rebuild)
    app.command(console)


def rebuild(*, json: Json = False, flags: SettingsFlags = NO_FLAGS) -> int:
    """Drop the view: every console on it, running or not, reads it from Kafka anew. Claims stay.

    Parameters
    ----------
    json
        One object on stdout, how much was dropped: {items, batches, records}.
    """
    try:
        from hitl_stream.console.database import is_dsn  # here: the other verbs need no database
        from hitl_stream.console.store import Dropped
        from hitl_stream.console.view import open_view
    except ImportError as error:
        raise SettingsError(
            f"what the console needs is missing ({error}); run: pip install 'hitl-stream[console]'"
        ) from None
    place = flags.load().store
    if not is_dsn(place) and not Path(place).exists():
        raise UsageError(
            f"{place}: there is no view; expected the SQLite file of a console, or a Postgres DSN: set --store or "
            "HITL_STORE as the console has it"
        )

    async def work() -> Dropped:
        store = open_view(place)
        try:
            return await store.rebuild()
        finally:
            await store.close()

    dropped = asyncio.run(work())
    if json:
        emit({"items": dropped.items, "batches": dropped.lots, "records": dropped.records})
        return 0
    where = "in Postgres" if is_dsn(place) else str(place)
    text = (
        f"The view {where} is dropped: {dropped.items} items, {dropped.lots} batches, {dropped.records} records of "
        "what became of actions. Consoles that run on it read it anew now, others when they start; claims stay."
    )
    out.print(escaped(text), markup=False, soft_wrap=True)
    return 0
