"""`python -m hitl_stream.cli.reference DIR` writes the reference; a test holds the committed pages against the code.

Settings, metrics, topics, verbs and errors are told by what decides about them, so that no page can be wrong for long.
It stands here and not in `dev` because it looks at every verb.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from enum import Enum
from inspect import Parameter, cleandoc
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from cyclopts import App
from prometheus_client import CollectorRegistry, Counter, Gauge
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from hitl_stream import metrics
from hitl_stream.cli.main import INTERNAL, INTERRUPTED, USAGE, build
from hitl_stream.cli.settings import FOUND, Flags
from hitl_stream.core import errors
from hitl_stream.core.errors import HitlError, RefusedError, UnreachableError
from hitl_stream.settings import NAMES, PREFIX, Security, Settings
from hitl_stream.wire.topics import DAY_MS, MIB, TABLE, Topic

MADE = "<!-- Made by `python -m hitl_stream.cli.reference docs`; a change here is lost. -->"
NOT_IN_TIME = 3
HOME = "~/.local/state/hitl"
DERIVED = {"keys_dir": "keys", "store": "view.db", "people": "people.db"}
"""Settings whose default lies below `state_dir`."""
SETTINGS_HEAD = """\
A setting is read, in this order, from a flag, the environment, `hitl.toml` in the working directory (or where
`HITL_CONFIG` points), a demo that runs, and its default. `hitl config show` says what is in force and where each value
comes from; `hitl config check` says what would go wrong with it here.

A table is a JSON object in the environment, or one entry of it: `HITL_KAFKA_SECURITY__SASL_MECHANISM=PLAIN`. With
`_FILE` at its end a variable names a file that holds the value: `HITL_KAFKA_SECURITY__SASL_PLAIN_PASSWORD_FILE`.
Relative paths in `hitl.toml` start at its own directory. An unknown name is an error."""
SOURCES = """\
Binds an action topic to its publishers:

```toml
sources = {"acme.actions" = {tenants = ["acme"], agents = ["bidder-7"]}}
```

An action on that topic that names another tenant or agent is refused as `identity`. An empty list allows anybody."""
METRICS_HEAD = """\
Every role serves them at `/metrics` on `metrics_port`. Labels come from closed sets: no id, agent or account is ever
one. Times are seconds; a counter ends in `_total`; a histogram has `_bucket`, `_sum` and `_count` besides.

What is asked of them: [the alerts](../runbooks/README.md), and the dashboards in `grafana/dashboards`."""
TOPICS_HEAD = """\
A name in Kafka is `prefix` (`hitl.`) and the name below, unless `topics` in the settings names another. N is
`partitions` (12), one number for the life of a topic set. `hitl topics plan` shows what would be made,
`hitl topics apply` makes it, `hitl topics check` says what differs. Every topic has the broker's append time as its
timestamp.

What the records look like: `docs/schemas` and [AsyncAPI](../asyncapi.json), generated from the code too."""


def pages() -> Iterator[tuple[str, str]]:
    """Yield (path, text) of every page."""
    yield "reference/configuration.md", configuration()
    yield "reference/metrics.md", metrics_page()
    yield "reference/topics.md", topics()
    yield "reference/cli.md", cli()
    yield "reference/errors.md", errors_page()


def write(directory: Path) -> None:
    """Write the pages below `directory`."""
    for path, text in pages():
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, "utf-8")


def _page(title: str, *parts: str) -> str:
    return "\n\n".join([MADE, f"# {title}", *(part.strip("\n") for part in parts)]) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _code(text: object) -> str:
    return f"`{text}`"


# --- settings ---------------------------------------------------------------------------------------------------------


def configuration() -> str:
    """Return the page of every setting: its name in the file, its variable, its default, what it says."""
    flags = {field.name for field in fields(Flags)}
    rows = (
        [
            _code(name),
            _code(PREFIX + name.upper()),
            _code(f"--{name.replace('_', '-')}") if name in flags else "–",
            _default(name, Settings.model_fields[name]),
            Settings.model_fields[name].description or "",
        ]
        for name in NAMES
    )
    security = (
        [_code(name), _code(f"{PREFIX}KAFKA_SECURITY__{name.upper()}"), _kind(field), _default(name, field)]
        for name, field in Security.model_fields.items()
    )
    return _page(
        "Configuration",
        SETTINGS_HEAD,
        _table(["setting", "variable", "flag", "default", "what it says"], rows),
        "## `kafka_security`",
        "The names are those of the Kafka client, aiokafka. A file with a certificate or a key is PEM.",
        _table(["entry", "variable", "takes", "default"], security),
        "## `sources`",
        SOURCES,
    )


def _default(name: str, field: FieldInfo) -> str:
    if name in DERIVED:
        return f"`<state_dir>/{DERIVED[name]}`"
    if name == "state_dir":
        return _code(HOME)
    if field.default is PydanticUndefined or field.default is None or field.default in ("", {}, ()):
        return "–"
    if isinstance(field.default, Security):
        return "see below"
    return _code(str(field.default).lower() if isinstance(field.default, bool) else field.default)


def _kind(field: FieldInfo) -> str:
    kinds = [one for one in get_args(field.annotation) or (field.annotation,) if one is not type(None)]
    if get_origin(field.annotation) is Literal:
        return ", ".join(map(_code, kinds))
    return ", ".join(_kind_of(one) for one in kinds)


def _kind_of(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return ", ".join(map(_code, get_args(kind)))
    if kind is SecretStr:
        return "a secret"
    return "a path" if get_args(kind)[:1] == (Path,) else "a text"


# --- metrics ----------------------------------------------------------------------------------------------------------


def metrics_page() -> str:
    """Return the page of every metric: its name as Prometheus stores it, its type, its labels, its help."""
    of_roles = metrics.Metrics()
    metrics.LaneMetrics("router", of_roles)
    metrics.ControlMetrics(of_roles).drilled(0.0)  # its gauge is there from the first drill on
    for made in (metrics.DeskMetrics, metrics.MonitorMetrics, metrics.ExecutorMetrics):
        made(of_roles)
    rows = sorted([_code(name), kind, labels or "–", text] for name, kind, labels, text in _families(of_roles.registry))
    return _page(
        "Metrics",
        METRICS_HEAD,
        _table(["name", "type", "labels", "what it says"], rows),
    )


def _families(registry: CollectorRegistry) -> Iterator[tuple[str, str, str, str]]:
    for collector in dict.fromkeys(registry._names_to_collectors.values()):
        if isinstance(collector, Counter):
            name, kind = f"{collector._name}_total", "counter"
        elif isinstance(collector, Gauge):
            name, kind = collector._name, "gauge"
        elif isinstance(collector, metrics.BulkHistogram):
            name, kind = collector._name, "histogram"
        else:
            continue
        labels = collector._labels if isinstance(collector, metrics.BulkHistogram) else collector._labelnames
        yield name, kind, ", ".join(map(_code, labels)), collector._documentation


# --- topics -----------------------------------------------------------------------------------------------------------


def topics() -> str:
    """Return the page of every topic: partitions, retention, limits, who writes it and who reads it."""
    rows = (
        [
            _code(name),
            "N" if topic.partitions is None else str(topic.partitions),
            topic.cleanup.replace(",", " + "),
            _kept(topic),
            f"{topic.bytes_max // MIB} MiB",
            topic.written_by,
            topic.read_by,
        ]
        for name, topic in TABLE.items()
    )
    durable = ", ".join(_code(name) for name, topic in TABLE.items() if topic.durable)
    return _page(
        "Topics",
        TOPICS_HEAD,
        _table(["topic", "partitions", "cleanup", "kept", "largest record", "written by", "read by"], rows),
        f"Flushed at each record, so that it is on disk before it is acknowledged: {durable}.",
    )


def _kept(topic: Topic) -> str:
    if topic.retention_ms < 0:
        return "for ever"
    return (
        f"{topic.retention_ms // DAY_MS} d" if topic.retention_ms >= DAY_MS else f"{topic.retention_ms // 3_600_000} h"
    )


# --- verbs ------------------------------------------------------------------------------------------------------------


def cli() -> str:
    """Return the page of every verb with its parameters; the flags for settings are told once."""
    shared = ", ".join(_code(f"--{field.name.replace('_', '-')}") for field in fields(Flags))
    return _page(
        "Command line",
        "Each verb says the same with `--help`. `--json` prints one object on stdout and nothing else there.",
        "Most verbs also take the settings as flags; each wins over the environment and the file\n"
        f"([configuration](configuration.md)): {shared}.",
        "What the exit codes mean: [errors](errors.md).",
        *(_verb(path, app) for path, app in _verbs((), build())),
    )


def _verbs(path: tuple[str, ...], app: App) -> Iterator[tuple[tuple[str, ...], App]]:
    for name in sorted(name for name in app if not name.startswith("-")):
        here = app[name]
        if here.default_command is not None:
            yield (*path, name), here
        yield from _verbs((*path, name), here)


def _verb(path: tuple[str, ...], app: App) -> str:
    arguments = [one for one in app.assemble_argument_collection(parse_docstring=True) if _is_its_own(one)]
    places = [one for one in arguments if one.index is not None]
    usage = " ".join([*("hitl", *path), *map(_place, places), *(_needed(one) for one in arguments if _must(one))])
    text = cleandoc(app.help or "").partition("\nParameters\n")[0].strip()
    rows = [[_names(one), _takes(one), _of(one), one.parameter.help or ""] for one in arguments]
    table = _table(["parameter", "takes", "default", "what it says"], rows) if rows else ""
    return "\n\n".join(
        part for part in (f"## `hitl {' '.join(path)}`", f"```console\n$ {usage}\n```", text, table) if part
    )


def _is_its_own(argument: Any) -> bool:
    return argument.names != ("*",) and tuple(argument.keys) not in {(field.name,) for field in fields(Flags)}


def _must(argument: Any) -> bool:
    return argument.index is None and bool(argument.required)


def _needed(argument: Any) -> str:
    return argument.names[0] if _takes(argument) == "–" else f"{argument.names[0]} {_takes(argument).strip('`')}"


def _place(argument: Any) -> str:
    name = argument.names[0].lstrip("-").upper()
    many = "…" if get_origin(argument.hint) is tuple or argument.field_info.kind is Parameter.VAR_POSITIONAL else ""
    return f"{name}{many}" if argument.required or argument.field_info.default is Parameter.empty else f"[{name}{many}]"


def _names(argument: Any) -> str:
    if argument.index is not None:
        return _code(argument.names[0].lstrip("-").upper())
    return ", ".join(_code(name) for name in argument.names if not name.startswith("--empty-"))


def _takes(argument: Any) -> str:
    hint = argument.hint
    plain = [one for one in get_args(hint) if one not in (type(None), ...)]
    if get_origin(hint) is Literal:
        return " or ".join(map(_code, plain))
    if plain:
        hint = plain[0]
    if get_origin(hint) is Literal:
        return " or ".join(map(_code, get_args(hint)))
    if isinstance(hint, type) and issubclass(hint, Enum):
        return " or ".join(_code(one.name) for one in hint)
    words = {"str": "TEXT", "Path": "PATH", "int": "N", "float": "NUMBER", "timedelta": "TIME", "bool": "–"}
    return words.get(getattr(hint, "__name__", ""), "TEXT")


def _of(argument: Any) -> str:
    default = argument.field_info.default
    if argument.required:
        return "needed"
    if default in (Parameter.empty, None, False, (), ""):
        return "–"
    if isinstance(default, tuple):
        return ", ".join(map(_code, default))
    return _code(default.name if isinstance(default, Enum) else str(default).lower() if default is True else default)


# --- errors -----------------------------------------------------------------------------------------------------------


def errors_page() -> str:
    """Return the page of exit codes, and of the exceptions that Python code can meet."""
    codes = (
        (0, "done"),
        (FOUND, "the check found something: a law that is broken, a drill over its alarm, nothing waits"),
        (USAGE, "what was typed, or a file or a setting, does not validate; nothing was done"),
        (NOT_IN_TIME, "appended, and not yet proved or applied in the time given; it holds all the same"),
        (
            UnreachableError.exit_code,
            "Kafka was not reached, and nothing was written; or it is not known, and it says so",
        ),
        (
            RefusedError.exit_code,
            "refused: a right, a signature or a qualification is missing, or a ceiling is reached",
        ),
        (INTERNAL, "an error of hitl itself; the log says where"),
        (INTERRUPTED, "interrupted by Ctrl-C"),
    )
    found = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, HitlError)]
    return _page(
        "Exit codes and errors",
        _table(["exit code", "means"], ([str(code), text] for code, text in codes)),
        "A message says what was found, what was expected, where, and what to do next. It goes to stderr.",
        "## Exceptions",
        "In `hitl_stream.core.errors`. Each ends the command line with the exit code beside it.",
        _table(
            ["exception", "is a", "exit code", "means"],
            (
                [_code(one.__name__), _code(one.__bases__[0].__name__), str(one.exit_code), cleandoc(one.__doc__ or "")]
                for one in found
            ),
        ),
    )


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "docs"))
