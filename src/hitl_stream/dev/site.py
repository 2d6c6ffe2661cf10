"""The trust of an installation that lives for an hour: a demo's, a test's, a benchmark's.

Two people, `ana` and `ben`, and the services `control`, `host`, `console` and `monitor`, all of whose keys lie in one
directory, which is what nobody does whose switches matter: `hitl keys init`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from hitl_stream.core.commands import TYPES, Keys
from hitl_stream.core.verdicts import VERDICT_TYPES
from hitl_stream.lane.commander import append
from hitl_stream.settings import Settings, kafka_client, topic_set
from hitl_stream.wire.signing import Kind, SigningKey, create_signing_key, key_entry
from hitl_stream.wire.topics import TopicSet

HOLDERS: Mapping[str, tuple[Kind, tuple[str, ...]]] = {
    "ana": ("person", TYPES),
    "ben": ("person", TYPES),
    "control": ("service", ("heartbeat", "engage", "release_request")),
    "host": ("service", ("engage",)),
    "console": ("service", (*VERDICT_TYPES, "engage")),
    "monitor": ("service", ("engage", "gate", "level", "reviewer")),
}
"""Holder → kind, and what their key signs."""
EARLIER = timedelta(minutes=5)
GOOD_FOR = timedelta(days=30)


async def make_control_keys(settings: Settings) -> str:
    """Make the keys and append the first `keys` record; return its digest, which is the setting `trust`.

    The topic `control` must be there, and empty: of a second record nothing would come.
    """
    return await begin_trust(kafka_client(settings), topic_set(settings), settings.keys_dir)


async def begin_trust(client: Mapping[str, Any], topics: TopicSet, keys_dir: Path) -> str:
    """Do that for a client, its topics and a directory."""
    keys = [create_signing_key(keys_dir, f"{holder}-1", holder, kind) for holder, (kind, _) in HOLDERS.items()]
    appended = await append(client, topics, keys[0], partial(_first, keys))
    return hashlib.sha256(appended.value).hexdigest()


def _first(keys: list[SigningKey], **claims: Any) -> Keys:
    issued = datetime.fromtimestamp(claims["iat"], UTC)
    entries = [key_entry(key, HOLDERS[key.holder][1], issued - EARLIER, issued + GOOD_FOR) for key in keys]
    return Keys(keys=tuple(entries), **claims)
