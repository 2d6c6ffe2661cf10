"""`hitl notify run`: what people should hear of, by mail, chat or whatever they read (https://github.com/caronc/apprise).

One process is enough: two would say everything twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import signal
from contextlib import suppress
from importlib import import_module
from typing import Any

import structlog
import uvloop
from cyclopts import App

from hitl_stream import logs
from hitl_stream.cli.settings import NO_FLAGS, SettingsFlags
from hitl_stream.core.digest_notes import Message
from hitl_stream.core.errors import SettingsError
from hitl_stream.lane.instances import seals_at
from hitl_stream.lane.notifying import Hearing, Send, notify
from hitl_stream.settings import Settings
from hitl_stream.wiring import group_of, kafka_client, topic_set

NOTIFY = "notify"
EXTRA = "pip install 'hitl-stream[notify]'"


def register(app: App) -> None:
    """Add the verbs."""
    verbs = App(name="notify", help="Tell people what waits for them, and what was stopped.")
    verbs.command(run)
    app.command(verbs)


def run(*, flags: SettingsFlags = NO_FLAGS) -> int:
    """Tell every target of `notify_urls` what waits too long, what was stopped, and whom the monitor wakes.

    It goes on where it stopped, until a signal ends it; run it once.
    """
    settings = flags.load()
    logs.configure(settings.log_format, settings.log_level)
    spec, targets = hearing(settings), targets_of(settings)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(spec, targets))
    return 0


def hearing(settings: Settings) -> Hearing:
    """Return what is read; raise SettingsError where a seal that it must check is not here."""
    seals = seals_at(settings.keys_dir, ("desk", "monitor"))
    if "desk" not in seals:
        raise SettingsError(
            f"no key seal-desk-<id> in {settings.keys_dir}, and what is read must be the desk's; copy it here, and "
            "seal-monitor-<id>, where there is a monitor"
        )
    every_ms = round(settings.notify_every_s * 1000)
    client, topics = kafka_client(settings), topic_set(settings)
    return Hearing(client, topics, settings.trust, every_ms, seals["desk"], seals.get("monitor", {}))


def targets_of(settings: Settings) -> dict[str, Send]:
    """Return by group what sends to each target; no error ever shows a target, which may hold a password."""
    if not settings.notify_urls:
        raise SettingsError(
            "notify_urls names no target; give some, such as HITL_NOTIFY_URLS=mailtos://… "
            "(https://appriseit.com/services lists the kinds)"
        )
    try:
        apprise: Any = import_module("apprise")
    except ImportError:
        raise SettingsError(f"messages need apprise, which is not installed; run: {EXTRA}") from None
    logging.getLogger("apprise").setLevel(logging.CRITICAL)  # it would print targets; we say ourselves what failed
    found: dict[str, Send] = {}
    for number, secret in enumerate(settings.notify_urls, 1):
        url, target = secret.get_secret_value(), apprise.Apprise()
        if not target.add(url):
            raise SettingsError(
                f"notify_urls: target {number} of {len(settings.notify_urls)} ({url.partition(':')[0][:20]}:…) is no "
                "URL that apprise knows; https://appriseit.com/services says how each is written"
            )
        digest = hashlib.blake2b(url.encode(), digest_size=6).hexdigest()
        found[f"{group_of(settings, NOTIFY)}.{digest}"] = _sender(target)
    return found


def _sender(target: Any) -> Send:
    async def send(message: Message) -> bool:
        # In a thread of its own: some kinds of target wait for seconds.
        return bool(await asyncio.to_thread(target.notify, title=message.title, body=message.body))

    return send


async def _run(spec: Hearing, targets: dict[str, Send]) -> None:
    """Tell all targets until a signal comes; the first that fails ends all."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    told = [asyncio.ensure_future(notify(spec, group, send)) for group, send in targets.items()]
    stopping = asyncio.ensure_future(stop.wait())
    done, _ = await asyncio.wait({stopping, *told}, return_when=asyncio.FIRST_COMPLETED)
    for task in (stopping, *told):
        task.cancel()
    for task in told:
        with suppress(asyncio.CancelledError):
            await task if task not in done else None
    for task in done - {stopping}:
        task.result()
    structlog.get_logger().info("stopped")
