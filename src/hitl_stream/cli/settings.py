"""`hitl config show`, `hitl config check`; and the flags that every verb takes for a setting."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.table import Table

from hitl_stream import settings as values
from hitl_stream.cli.terminal import emit, out
from hitl_stream.core.errors import HitlError, PolicyError, Problem
from hitl_stream.core.escape import escaped
from hitl_stream.settings import PolicyFacts, Settings

FOUND = 1
"""The exit code of a check that found something."""


@dataclass(frozen=True, kw_only=True)
class Flags:
    """Settings by flag; each wins over the environment and `hitl.toml`. `hitl config show` lists what is in force."""

    kafka: str | None = None
    """Kafka's bootstrap servers, host:port."""
    prefix: str | None = None
    """What every topic's name begins with."""
    partitions: int | None = None
    """Partitions of every entity topic."""
    policy: Path | None = None
    """Policy file."""
    tenant: str | None = None
    """Tenant of an action that names none."""
    state_dir: Path | None = None
    """Lock files, HALT, local databases, demo.json."""
    keys_dir: Path | None = None
    """Key files, each 0600."""
    trust: str | None = None
    """Digest of the first keys record on control."""
    bind: str | None = None
    """Address that metrics listen on."""
    metrics_port: int | None = None
    """Port of /metrics, /livez, /readyz and /version; 0: any free one."""
    console_port: int | None = None
    """Port of the console; 0: any free one."""
    store: str | None = None
    """The console's view: path of an SQLite file, or a Postgres DSN without a password."""
    people: str | None = None
    """The console's accounts, the same."""
    adapter: str | None = None
    """What carries actions out: http, log (only says what it would do), or module:factory."""
    slot: int | None = None
    """Which of this host's processes this is."""
    window_ids_max: int | None = None
    """How many ids a process remembers against duplicates."""
    batch_records_max: int | None = None
    """How many records are decided in one go."""
    expected_rate: float | None = None
    """Actions a second over all agents, for `hitl config check`."""
    log_format: str | None = None
    """auto, json or console."""
    log_level: str | None = None
    """debug, info, warning or error."""

    def load(self) -> Settings:
        """Return the settings with these flags on top; raise SettingsError where one cannot be used."""
        return values.load(**{field.name: getattr(self, field.name) for field in fields(self)})


SettingsFlags = Annotated[Flags, Parameter(name="*")]
"""The flags, as a parameter of a verb: `def verb(..., *, flags: SettingsFlags = NO_FLAGS)`."""
NO_FLAGS = Flags()
Json = Annotated[bool, Parameter(name="--json", negative="", show_default=False)]
Toggle = Annotated[bool, Parameter(negative="")]
Timeout = Annotated[timedelta, Parameter(name="--timeout")]


def register(app: App) -> None:
    """Add the verbs."""
    config = App(name="config", help="Look at the settings in force, and check them.")
    config.command(show)
    config.command(check)
    app.command(config)


def show(*, json: Json = False, flags: SettingsFlags = NO_FLAGS) -> int:
    """Print every setting: its value, secrets masked, and where it comes from.

    Parameters
    ----------
    json
        One object on stdout: {name: {value, source}}.
    """
    settings = flags.load()
    shown, origins = values.shown(settings), values.origin(settings)
    if json:
        emit({name: {"value": value, "source": origins[name]} for name, value in shown.items()})
        return 0
    table = Table(box=None, pad_edge=False, show_edge=False, header_style="bold")
    for title in ("setting", "value", "from"):
        table.add_column(title, overflow="fold")
    for name, value in shown.items():
        given = origins[name] != "default"
        table.add_row(name, _text(value), escaped(origins[name]), style=None if given else "dim")
    out.print(table)
    return 0


def _text(value: Any) -> str:
    match value:
        case None | "":
            return "–"
        case dict():
            return escaped(", ".join(f"{name}={entry}" for name, entry in value.items())) or "–"
        case bool():
            return str(value).lower()
        case _:
            return escaped(str(value))


def check(*, json: Json = False, flags: SettingsFlags = NO_FLAGS) -> int:
    """Say what would go wrong with these settings on this machine now. Exit 1 if there is an error.

    Parameters
    ----------
    json
        One object on stdout: {ok, problems}.
    """
    settings = flags.load()
    problems = problems_of(settings)
    ok = not any(problem.severity == "error" for problem in problems)
    if json:
        emit({"ok": ok, "problems": [_row(problem) for problem in problems]})
    else:
        for problem in problems:
            out.print(escaped(str(problem)), style=_STYLE.get(problem.severity), markup=False, soft_wrap=True)
        out.print(
            "settings ok" if ok else "settings not ok: mend the errors above", style="green" if ok else "bold red"
        )
    return 0 if ok else FOUND


def problems_of(settings: Settings) -> tuple[Problem, ...]:
    """Return everything that would go wrong with these settings on this machine now."""
    facts, unusable = _policy_facts(settings)
    return (*values.check(settings, facts), *unusable, *_adapter_problems(settings))


_STYLE = {"error": "red", "warning": "yellow"}


def _policy_facts(settings: Settings) -> tuple[PolicyFacts | None, list[Problem]]:
    from hitl_stream.wiring import load_policy  # here: every verb needs the flags above, few need the roles

    if settings.policy is None:
        found = "no policy; give one with --policy FILE, HITL_POLICY or `policy` in hitl.toml"
        return None, [Problem("settings.policy", found, "policy", severity="warning")]
    try:
        return values.facts_of(load_policy(settings).policy), []
    except PolicyError as error:
        errors = sum(problem.severity == "error" for problem in error.problems)
        found = f"{settings.policy} does not validate ({errors} errors); run: hitl policy lint {settings.policy}"
        return None, [Problem("settings.policy", found, "policy")]
    except HitlError:
        return None, []  # a file that cannot be read: `settings.check` says so


def _adapter_problems(settings: Settings) -> list[Problem]:
    """Make the adapter as the executor would; where none is named, this host need not run one."""
    from hitl_stream.adapters import load_adapter  # here: few verbs need one

    if settings.adapter:
        try:
            load_adapter(settings.adapter, settings.adapter_options, lambda: 0)
        except HitlError as error:
            return [Problem("settings.adapter", str(error), "adapter")]
    return []


def _row(problem: Problem) -> dict[str, str]:
    return {
        "rule": problem.rule,
        "severity": problem.severity,
        "setting": problem.path,
        "message": problem.message,
    }
