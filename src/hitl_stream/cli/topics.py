"""`hitl topics plan`, `hitl topics apply`, `hitl topics check`: the cluster's topics against the table."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, TypeVar

from cyclopts import App, Parameter
from cyclopts.types import PositiveInt
from rich.table import Table
from rich.text import Text

from hitl_stream.cli.progress import how_far
from hitl_stream.cli.settings import FOUND, NO_FLAGS, Json, SettingsFlags
from hitl_stream.cli.terminal import emit, out
from hitl_stream.lane import admin
from hitl_stream.lane.admin import Difference, TopicPlan
from hitl_stream.settings import kafka_client, topic_set

T = TypeVar("T")
Replication = Annotated[PositiveInt | None, Parameter(name="--replication")]
_STYLES = {"absent": "yellow", "differs": "red", "ok": "green"}


def register(app: App) -> None:
    """Add the verbs."""
    topics = App(name="topics", help="Make the topics, and check that they are as they should be.")
    topics.command(plan)
    topics.command(apply)
    topics.command(check)
    app.command(topics)


def plan(*, json: Json = False, replication: Replication = None, flags: SettingsFlags = NO_FLAGS) -> int:
    """Say for every topic whether it is absent, as it should be, or different, and in what. Nothing is changed.

    Parameters
    ----------
    json
        One object on stdout: {topics: [{name, topic, state, partitions, replication, differences}]}.
    replication
        Replicas of each partition; not given: as many as there are brokers, at most 3.
    """
    settings = flags.load()
    plans = reading(
        admin.plan(kafka_client(settings), topic_set(settings), sources=settings.sources, replication=replication)
    )
    if json:
        emit({"topics": [_row(one) for one in plans]})
        return 0
    out.print(_table(plans))
    _say_what_apply_does(plans)
    return 0


def apply(*, json: Json = False, replication: Replication = None, flags: SettingsFlags = NO_FLAGS) -> int:
    """Create what is absent, set what differs. Partitions and replicas stay as they are: then exit 1.

    Parameters
    ----------
    json
        One object on stdout: {ok, created, altered, left}.
    replication
        Replicas of each new topic's partitions; not given: as many as there are brokers, at most 3.
    """
    settings = flags.load()
    done = reading(
        admin.apply(kafka_client(settings), topic_set(settings), sources=settings.sources, replication=replication)
    )
    if json:
        left = [_row(one) for one in done.left]
        emit({"ok": not left, "created": done.created, "altered": done.altered, "left": left})
        return FOUND if left else 0
    for word, topics in (("created", done.created), ("altered", done.altered)):
        for topic in topics:
            _print(f"{word}  {topic}")
    if not done.created and not done.altered:
        _print("nothing to do")
    for one in done.left:
        for difference in one.differences:
            if not difference.settable:
                _print(f"left     {one.topic}: {_difference(difference)}; {difference.remedy}", "red")
    return FOUND if done.left else 0


def check(*, json: Json = False, replication: Replication = None, flags: SettingsFlags = NO_FLAGS) -> int:
    """Say what is wrong with the topics, also whether what comes in fits into what goes out. Exit 1 if anything is.

    Parameters
    ----------
    json
        One object on stdout: {ok, problems: [{rule, topic, message}]}.
    replication
        Replicas expected; not given: as many as there are brokers, at most 3.
    """
    settings = flags.load()
    problems = reading(
        admin.check(kafka_client(settings), topic_set(settings), sources=settings.sources, replication=replication)
    )
    if json:
        rows = [{"rule": problem.rule, "topic": problem.path, "message": problem.message} for problem in problems]
        emit({"ok": not problems, "problems": rows})
    else:
        for problem in problems:
            _print(str(problem), "red")
        _print("topics not ok" if problems else "topics ok", "bold red" if problems else "green")
    return FOUND if problems else 0


def reading(work: Coroutine[Any, Any, T]) -> T:
    """Run one call to Kafka. The client's own lines are left out: our error says what they do, once.

    What takes long shows on a terminal how far it is, and how long it will still take.
    """
    with _quiet("aiokafka"), how_far():
        return asyncio.run(work)


@contextmanager
def _quiet(logger: str) -> Iterator[None]:
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(level)


def _row(one: TopicPlan) -> dict[str, Any]:
    return {
        "name": one.name,
        "topic": one.topic,
        "state": one.state,
        "partitions": one.partitions,
        "replication": one.replication,
        "differences": [
            {"key": d.key, "found": d.found, "wanted": d.wanted, "settable": d.settable, "remedy": d.remedy}
            for d in one.differences
        ],
    }


def _table(plans: Sequence[TopicPlan]) -> Table:
    table = Table(box=None, pad_edge=False, show_edge=False, header_style="bold")
    for title in ("topic", "partitions", "replicas", "state", "found, expected"):
        table.add_column(title, overflow="fold", justify="right" if title in ("partitions", "replicas") else "left")
    for one in plans:
        found = "\n".join(map(_difference, one.differences))
        state = Text(one.state, style=_STYLES[one.state])
        table.add_row(Text(one.topic), str(one.partitions), str(one.replication), state, Text(found))
    return table


def _difference(difference: Difference) -> str:
    return f"{difference.key} is {difference.found}, expected {difference.wanted}"


def _say_what_apply_does(plans: Sequence[TopicPlan]) -> None:
    absent = sum(one.state == "absent" for one in plans)
    settable = sum(any(d.settable for d in one.differences) for one in plans)
    if absent or settable:
        _print(f"`hitl topics apply` would create {absent} and alter {settable} of {len(plans)} topics.")
    for remedy in dict.fromkeys(d.remedy for one in plans for d in one.differences if not d.settable):
        _print(remedy, "red")


def _print(text: str, style: str | None = None) -> None:
    out.print(text, style=style, markup=False, soft_wrap=True)
