"""`hitl export feedback | decisions | preferences`: what people's work leaves, as JSON Lines without what is hidden.

One kind at a time, so that labels for training never stand in one file with decisions for production.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from hitl_stream.cli.settings import FOUND, NO_FLAGS, SettingsFlags
from hitl_stream.cli.stretch import Since, Until, checked_log, policy_in_force, say_seals, stretch
from hitl_stream.cli.terminal import say
from hitl_stream.cli.topics import reading
from hitl_stream.core.errors import UsageError
from hitl_stream.core.redaction import Digest, hidden_fields
from hitl_stream.lane.exports import Checked, Exported, Kind, keyed
from hitl_stream.lane.exports import export as export_log
from hitl_stream.settings import Settings
from hitl_stream.wire import seal

PSEUDONYM = "pseudonym"
MODE = 0o600
"""It holds what people have said; whoever else may read it is for its owner to say."""


def register(app: App) -> None:
    """Add the verb."""
    app.command(export)


def export(
    kind: Annotated[Kind, Parameter(name="KIND")],
    /,
    *,
    since: Since = None,
    until: Until = None,
    format: Annotated[Literal["jsonl"], Parameter(name="--format")] = "jsonl",  # noqa: A002  the flag's name
    out: Annotated[Path | None, Parameter(name="--out")] = None,
    flags: SettingsFlags = NO_FLAGS,
) -> int:
    """Export feedback, decisions or preferences: one record a line, fields that the policy redacts hidden.

    Counts go to stderr. Exit 1 if records were left out because their seals do not fit, or they cannot be read.

    Parameters
    ----------
    format
        jsonl: JSON Lines.
    out
        Write to this file, all or nothing, readable by its owner alone; not given: stdout.
    """
    settings = flags.load()
    checked = checked_log(settings, *stretch(since, until))
    with _writing(out) as write:
        counts, hidden = reading(_export(settings, checked, kind, write))
    _say_counts(kind, counts, hidden)
    return FOUND if say_seals(checked) or counts.unreadable else 0


async def _export(
    settings: Settings, checked: Checked, kind: Kind, write: Callable[[bytes], None]
) -> tuple[Exported, frozenset[str]]:
    """Export under the union of what the policies hide: what one of them hides was written under it, or will be."""
    force = await policy_in_force(settings)
    fields = hidden_fields(force.loaded.policy, *force.others)
    return await export_log(checked, kind, fields, _digest(settings), write), fields


def _digest(settings: Settings) -> Digest | None:
    """Return what hashes hidden fields in feedback, where its key is here."""
    if not any(settings.keys_dir.glob(f"{PSEUDONYM}-*")):
        return None
    return keyed(list(seal.read_keys(settings.keys_dir, PSEUDONYM).values())[-1])


def _say_counts(kind: Kind, counts: Exported, fields: frozenset[str]) -> None:
    hidden = f"; {', '.join(sorted(fields))} hidden in {counts.redacted:,}" if fields else ""
    say(f"{counts.written:,} {kind}{hidden}")
    if counts.unreadable:
        say(f"left out: {counts.unreadable:,} that cannot be read")


@contextmanager
def _writing(out: Path | None) -> Iterator[Callable[[bytes], None]]:
    """Give what writes a line; a file appears when it is whole, and not at all where reading failed."""
    if out is None:
        yield _line_to(sys.stdout.buffer)
        sys.stdout.flush()
        return
    try:
        descriptor, name = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name}.")
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be written: {error.strerror or error}; name a file elsewhere") from None
    made = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield _line_to(file)
        made.chmod(MODE)
        made.replace(out)
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be written: {error.strerror or error}; name a file elsewhere") from None
    finally:
        with suppress(FileNotFoundError):
            made.unlink()


def _line_to(file: Any) -> Callable[[bytes], None]:
    return lambda line: file.write(line + b"\n")
