"""`hitl drill`: engages a switch under load, against a tenant that exists for this, and measures what that did.

It runs where the control role does: it signs with that role's key, and seals its actions with that role's seal.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import orjson
from cyclopts import App, Parameter
from cyclopts.types import PositiveFloat, PositiveInt
from rich.table import Table
from rich.text import Text

from hitl_stream.cli.appending import believed, trust_of
from hitl_stream.cli.live import Telling
from hitl_stream.cli.settings import FOUND, NO_FLAGS, Json, SettingsFlags, Timeout
from hitl_stream.cli.terminal import emit, out
from hitl_stream.cli.topics import reading
from hitl_stream.core.control import Control
from hitl_stream.core.errors import SettingsError, UsageError
from hitl_stream.core.escape import escaped
from hitl_stream.lane.admin import cluster_id
from hitl_stream.lane.control_reader import read_control
from hitl_stream.lane.drill import Figures, Place, Plan, action
from hitl_stream.lane.drill import drill as run_drill
from hitl_stream.settings import Settings, kafka_client, topic_set
from hitl_stream.wire import seal
from hitl_stream.wire.policy_file import LoadedPolicy
from hitl_stream.wire.signing import SUFFIX, SigningKey, read_signing_key, read_signing_keys

RATE_MAX = 20_000.0
SECONDS_MAX = 600.0
TIMES_MAX = 100
SIGNS = ("engage", "release_request")
CONTROL = "control"
ACTION_BYTES_MAX = 64 * 1024
ServiceKeyFlag = Annotated[
    str | None,
    Parameter(
        name="--key",
        help="The service key that signs; not given: the newest one here that control lists for it.",
    ),
]


def register(app: App) -> None:
    """Add the verb."""
    app.command(drill)


def drill(
    *,
    rate: PositiveFloat = 1_000.0,
    seconds: PositiveFloat = 6.0,
    times: PositiveInt = 1,
    timeout: Timeout = timedelta(seconds=10),
    action: Path | None = None,
    key: ServiceKeyFlag = None,
    json: Json = False,
    flags: SettingsFlags = NO_FLAGS,
) -> int:
    """Stop the reserved tenant `drill` under load, measure how fast that was, and release it. Exit 1 over an alarm.

    Parameters
    ----------
    rate
        Actions a second.
    seconds
        How long there is load, half of it before the HALT.
    times
        How many drills, one after another.
    timeout
        How long to wait until the HALT is EFFECTIVE.
    action
        JSON file with an action that the policy lets run alone; not given: one is looked for.
    json
        One object on stdout: {ok, rows, drills}.
    """
    _check(rate, seconds, times)
    settings = flags.load()
    telling = Telling(json)
    control = reading(_folded(settings))
    place = Place(
        kafka_client(settings),
        topic_set(settings),
        trust_of(settings),
        _signer(settings, control, key),
        _seal(settings),
    )
    template = _given(action) if action is not None else _found(settings, control)
    telling.line(f"an action of type {escaped(str(template['type']))} by {escaped(str(template['agent']['id']))}")
    plan = Plan(template, rate, seconds / 2, seconds / 2, timeout.total_seconds())
    found: list[Figures] = []
    for number in range(1, times + 1):
        if times > 1:
            telling.line(f"drill {number} of {times}", "bold")
        found.append(reading(run_drill(place, plan, telling.line)))
    rows = list(judge(found))
    ok = not any(row.alarming for row in rows)
    if json:
        emit({"ok": ok, "rows": [row.data() for row in rows], "drills": [asdict(one) for one in found]})
    else:
        out.print(table(rows))
        for line in notes(found):
            telling.line(line)
        out.print("within every alarm" if ok else "OVER AN ALARM", style="green" if ok else "bold red")
    return 0 if ok else FOUND


def _check(rate: float, seconds: float, times: int) -> None:
    limits = (("--rate", rate, RATE_MAX), ("--seconds", seconds, SECONDS_MAX), ("--times", times, TIMES_MAX))
    for name, value, most in limits:
        if value > most:
            raise UsageError(f"{name} {value:g} is more than {most:g}")


async def _folded(settings: Settings) -> Control:
    client, topics, trust = kafka_client(settings), topic_set(settings), trust_of(settings)
    log = await read_control(client, topics, trust, await cluster_id(client))
    return believed(log, topics.name("control")).control


# --- keys -------------------------------------------------------------------------------------------------------------


def _signer(settings: Settings, control: Control, wanted: str | None) -> SigningKey:
    """Return the service key that may engage and release."""
    if wanted is not None:
        is_path = "/" in wanted or wanted.endswith(SUFFIX)
        return read_signing_key(Path(wanted) if is_path else settings.keys_dir / f"{wanted}{SUFFIX}")
    here = read_signing_keys(settings.keys_dir)
    good = [one for one in here.values() if one.kind == "service" and _may(control, one)]
    if not good:
        raise UsageError(
            f"{settings.keys_dir} has no service key that control lists for {' and '.join(SIGNS)}; a drill runs where "
            "the control role does, with its key control-<n>.jwk (hitl keys show)"
        )
    return good[-1]


def _may(control: Control, key: SigningKey) -> bool:
    entry = control.keys.get(key.key_id)
    return entry is not None and set(SIGNS) <= set(entry.types)


def _seal(settings: Settings) -> seal.SealKey:
    if not any(settings.keys_dir.glob(f"seal-{CONTROL}-*")):
        raise SettingsError(
            f"{settings.keys_dir} has no key seal-{CONTROL}-<id>, which the drill's actions are sealed with and "
            "routers check; make one (hitl keys seal), and copy it to every host that runs a router"
        )
    return list(seal.read_keys(settings.keys_dir, f"seal-{CONTROL}").values())[-1]


# --- an action that runs alone ----------------------------------------------------------------------------------------


def _given(file: Path) -> Mapping[str, Any]:
    """Read an action; its id, tenant, times and entity are the drill's."""
    from hitl_stream.cli.policy import read  # here: it loads the roles, which nothing else needs if a file is given

    try:
        template = orjson.loads(read(file))
    except orjson.JSONDecodeError as error:
        raise UsageError(f"{file}: no JSON: {error}") from None
    if not isinstance(template, dict) or not isinstance(template.get("agent"), dict) or "type" not in template:
        raise UsageError(f"{file}: no action; expected a JSON object with type and agent")
    return template


def _found(settings: Settings, control: Control) -> Mapping[str, Any]:
    """Return an action that the policy in force lets run alone, by trying."""
    from hitl_stream.cli.rules import known  # here, as above

    policy = known(settings, control)
    for template in candidates(policy.loaded):
        if runs_alone(policy.loaded, template):
            return template
    raise UsageError(
        f"no plain action of any class runs alone under the policy in force ({policy.place}), so a drill would measure "
        "nothing; give one that does: --action FILE.json"
    )


def candidates(loaded: LoadedPolicy) -> Iterator[dict[str, Any]]:
    """Yield plain actions of the policy's classes that may act alone, the simplest first."""
    policy = loaded.policy
    for name, cls in policy.classes.items():
        if cls.level < 3:
            continue
        for pattern in policy.agents:
            plain: dict[str, Any] = {
                "type": name,
                "agent": {"id": pattern.replace("*", "drill"), "version": "drill"},
                "confidence": 0.99,
                "evidence": [{"signal": cls.goal or "drill", "value": 2, "before": 1, "better": "up"}],
            }
            change = {"field": "bid", "before": "1.00", "after": "1.01", "unit": policy.currency}
            yield plain | {"changes": [change]}
            yield plain | {"changes": [change | {"before": "1.01", "after": "1.00"}]}
            yield plain | {"content": {"text": "drill"}}


def runs_alone(loaded: LoadedPolicy, template: Mapping[str, Any]) -> bool:
    """Say whether the router would execute an action at once."""
    from hitl_stream.cli.decide import Decider  # here, as above
    from hitl_stream.lane.step import Moment

    now_ms = time.time_ns() // 1_000_000
    # Of another tenant: a router refuses this one from anybody without the seal.
    value = orjson.loads(action(template, "0", 0, "account", now_ms)) | {"tenant": "local"}
    decider = Decider(loaded, "local", appended_ms=now_ms)
    row = decider.row(1, orjson.dumps(value))
    return any(output.topic.endswith("execute") for output in decider.outputs([row], Moment(now_ms)))


# --- judging ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One measure: what was found, what is wanted, and from where on it is an alarm."""

    measure: str
    found: str
    target: str
    alarm: str
    verdict: str

    @property
    def alarming(self) -> bool:
        """Say whether it is over the alarm."""
        return self.verdict == "ALARM"

    def data(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Limit:
    """Targets by percentile, in milliseconds, and the alarm for the largest."""

    targets: Mapping[str, int]
    alarm_ms: int


LAST_COMMIT = Limit({"p50": 150, "p99": 500, "max": 1_000}, 1_000)
EFFECTIVE = Limit({"p99": 1_000}, 2_000)
APPEND = Limit({"p99": 1_000}, 2_000)


def judge(found: Sequence[Figures]) -> Iterator[Row]:
    """Yield the measures that a drill takes."""
    yield _row("append → last offending execute commit", [one.last_ms or 0 for one in found], LAST_COMMIT)
    proved = [one.effective_ms for one in found]
    if None in proved:
        yield Row(
            "append → EFFECTIVE", "not in time", _targets(EFFECTIVE), f"> {EFFECTIVE.alarm_ms / 1000:g} s", "ALARM"
        )
    else:
        yield _row("append → EFFECTIVE", [one for one in proved if one is not None], EFFECTIVE)
    after = sum(one.after_effective for one in found)
    yield Row("execute commits after EFFECTIVE", str(after), "0, ever", "≥ 1", "ALARM" if after else "ok")
    yield _row("this command → append", [one.append_ms for one in found], APPEND)
    left = [one.epoch for one in found if one.released is None]
    if left:
        yield Row("released", f"not {', '.join(map(str, left))}", "each", "any left", "ALARM")


def _row(measure: str, values: Sequence[int], limit: Limit) -> Row:
    at = {"p50": percentile(values, 0.50), "p99": percentile(values, 0.99), "max": max(values)}
    shown = {name: at[name] for name in (("p50", "p99", "max") if len(values) > 1 else ("max",))}
    text = ", ".join(f"{name} {value} ms" for name, value in shown.items()) if len(values) > 1 else f"{values[0]} ms"
    verdict = "ok"
    if any(at[name] > most for name, most in limit.targets.items()):
        verdict = "over target"
    if at["max"] > limit.alarm_ms:
        verdict = "ALARM"
    return Row(measure, text, _targets(limit), _over(limit), verdict)


def _over(limit: Limit) -> str:
    return f"> {limit.alarm_ms / 1000:g} s"


def _targets(limit: Limit) -> str:
    return ", ".join(f"{name} ≤ {most} ms" for name, most in limit.targets.items())


def percentile(values: Sequence[int], share: float) -> int:
    """Return the nearest-rank percentile.

    >>> percentile([3, 1, 2], 0.5), percentile([7], 0.99)
    (2, 7)
    """
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


_STYLES = {"ok": "green", "over target": "yellow", "ALARM": "bold red"}


def table(rows: Sequence[Row]) -> Table:
    """Return the measures as a table."""
    made = Table(box=None, pad_edge=False, show_edge=False, header_style="bold")
    for title in ("measure", "found", "target", "alarm", ""):
        made.add_column(title, overflow="fold")
    for row in rows:
        made.add_row(
            row.measure, Text(row.found, "bold"), row.target, row.alarm, Text(row.verdict, _STYLES[row.verdict])
        )
    return made


def notes(found: Sequence[Figures]) -> Iterator[str]:
    """Yield what the figures rest on."""
    published, ran, offending = (sum(of(one) for one in found) for of in _COUNTS)
    yield f"{published:,} actions published, {ran:,} ran, {offending:,} of them committed after the append"
    if any(one.open for one in found):
        yield "some transactions on execute were still open at the end: what they hold is not counted"
    if not ran:
        yield "nothing ran: no figure means anything"


_COUNTS: Sequence[Callable[[Figures], int]] = (lambda f: f.published, lambda f: f.ran, lambda f: f.offending)
