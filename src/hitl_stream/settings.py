"""What a process is told from outside: flags, then environment, then `hitl.toml`, then a running demo, then defaults.

| source | how |
|---|---|
| flag | `load(kafka="host:9092")`; a flag that is None was not given |
| environment | `HITL_KAFKA=…`; a table is a JSON object, or an entry of it (`HITL_KAFKA_SECURITY__SASL_MECHANISM=…`) |
| secret file | `HITL_KAFKA_SECURITY__SASL_PLAIN_PASSWORD_FILE=/run/secrets/kafka` reads the value from a file |
| `hitl.toml` | in the working directory, or where `HITL_CONFIG` points; relative paths start at the file's directory |
| demo | `<state_dir>/demo.json` of a demo that still runs, only while nothing above says `kafka` |

Tables are merged entry by entry. An empty variable counts as not set. A message never shows a secret.
"""

from __future__ import annotations

import json
import math
import os
import re
import socket
import ssl
import tomllib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from hitl_stream import __version__
from hitl_stream.core.errors import Problem, SettingsError
from hitl_stream.wire.topics import TABLE, TopicSet

if TYPE_CHECKING:
    # Only a name in a signature; building these models would cost each `hitl kill` a tenth of a second.
    from hitl_stream.core.policy.model import Policy
from hitl_stream.core.tripwires import WIRES

PREFIX = "HITL_"
FILE_NAME = "hitl.toml"
STATE_DIR = Path("~/.local/state/hitl")
SECRET_BYTES_MAX = 64 * 1024
"""A key or a certificate fits; a mistyped path to a log does not get read into memory."""
IDS_BYTES = 195
"""Memory per id in the window: 195 MB for a million, measured (architecture.md)."""
MASK = "********"
NOT_SETTINGS = ("config", "kafka_home", "faults", "plant", "test_postgres", "console", "console_token")
"""Variables of ours that are no settings: where the file is, where Kafka's jars are, what the tests do and use."""

_SERVER = re.compile(r"^(\[[0-9a-fA-F:]+\]|[^\s:/,\[\]]+):([0-9]{1,5})$")
_TOPIC = re.compile(r"^[a-zA-Z0-9._-]*$")
_TOPIC_LENGTH_MAX = 249
_SECRET_OPTION = re.compile(r"token|secret|passw|key|credential|auth|cookie", re.IGNORECASE)
_PATH_OPTION = "_file"
_PASSWORD_OF_DSN = re.compile(r"(?<=://)([^/@:\s]*):([^/@\s]*)@|(password=)('[^']*'|\S+)", re.IGNORECASE)


def _servers(text: str) -> str:
    for server in text.split(","):
        found = _SERVER.match(server.strip())
        if found is None or not 0 < int(found[2]) < 65536:
            raise ValueError(
                f"{server.strip()!r} is not host:port; write a broker such as 127.0.0.1:9092, several with commas"
            )
    return text


def _topic(text: str) -> str:
    if not _TOPIC.match(text) or len(text) > _TOPIC_LENGTH_MAX:
        raise ValueError(
            f"{text!r} does not fit a topic's name; Kafka takes letters, digits, '.', '_' and '-', up to 249"
        )
    return text


def _logical(name: str) -> str:
    if name not in TABLE:
        raise ValueError(f"{name!r} is no topic of ours{_similar(name, tuple(TABLE), str)}")
    return name


def _whole_topic(text: str) -> str:
    if not text:
        raise ValueError("a topic's name cannot be empty")
    return _topic(text)


def _tenant(text: str) -> str:
    if "/" in text:
        raise ValueError(f"{text!r} holds a '/', which parts a tenant from an id")
    return text


def _listed(value: object) -> object:
    """Return what an environment variable says as a list: several with commas, or JSON; a file has lists already."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        with suppress(json.JSONDecodeError):
            return json.loads(value)
    return [one.strip() for one in value.split(",") if one.strip()]


def _metrics_url(text: str) -> str:
    found = urlsplit(text)
    if found.scheme not in ("http", "https") or not found.hostname or "@" in found.netloc:
        raise ValueError(
            f"{found.scheme or 'it'}://{found.hostname or '…'} is no URL of metrics; write http://HOST:9464/metrics, "
            "without a name or a password"
        )
    return text


def _path(value: object) -> object:
    if value == "":
        raise ValueError("cannot be empty; write a path, or leave the setting out")
    return _expanded(value) if isinstance(value, str | Path) else value


def _expanded(path: str | Path) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:  # a user without a home, as in some containers
        raise ValueError(f"the home directory that '{path}' begins with is not known; write the whole path") from None


def _place(value: object) -> object:
    if value == "":
        raise ValueError("cannot be empty; write the path of an SQLite file, or a Postgres DSN")
    if isinstance(value, Path) or (isinstance(value, str) and value.startswith("~")):
        return str(_expanded(value))
    return value


def _option(value: object) -> str | bool | int | float:
    if isinstance(value, str | bool | int | float):
        return value
    raise ValueError("expected a text, a number, true or false")


Filepath = Annotated[Path, BeforeValidator(_path)]
Place = Annotated[str, BeforeValidator(_place)]
"""A path of an SQLite file, or a Postgres DSN."""
MetricsUrl = Annotated[str, AfterValidator(_metrics_url)]
Port = Annotated[int, Field(ge=0, le=65535)]
TopicName = Annotated[str, AfterValidator(_topic)]
Option = Annotated[str | bool | int | float, PlainValidator(_option)]
WholeTopicName = Annotated[str, AfterValidator(_whole_topic)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Security(_Table):
    """How to reach a Kafka that asks who we are; the names are aiokafka's."""

    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    sasl_plain_username: str | None = None
    sasl_plain_password: SecretStr | None = None
    ssl_cafile: Filepath | None = None
    ssl_certfile: Filepath | None = None
    ssl_keyfile: Filepath | None = None
    ssl_password: SecretStr | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        sasl = {"sasl_mechanism", "sasl_plain_username", "sasl_plain_password"}
        given = {name for name in type(self).model_fields if getattr(self, name) is not None}
        if self.security_protocol.startswith("SASL") and (missing := sorted(sasl - given)):
            raise ValueError(f"security_protocol {self.security_protocol} also needs {', '.join(missing)}")
        if not self.security_protocol.startswith("SASL") and (extra := sorted(sasl & given)):
            raise ValueError(f"{', '.join(extra)} would not be used with security_protocol {self.security_protocol}")
        if not self.security_protocol.endswith("SSL") and (extra := sorted(n for n in given if n.startswith("ssl_"))):
            raise ValueError(f"{', '.join(extra)} would not be used with security_protocol {self.security_protocol}")
        if (self.ssl_certfile is None) != (self.ssl_keyfile is None):
            raise ValueError("ssl_certfile and ssl_keyfile go together")
        return self

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments for a client of aiokafka, secrets in clear, certificates read.

        Raises:
            SettingsError: a certificate or key cannot be read.
        """
        options: dict[str, Any] = {"security_protocol": self.security_protocol}
        if self.sasl_mechanism is not None and self.sasl_plain_password is not None:
            options["sasl_mechanism"] = self.sasl_mechanism
            options["sasl_plain_username"] = self.sasl_plain_username
            options["sasl_plain_password"] = self.sasl_plain_password.get_secret_value()
        if self.security_protocol.endswith("SSL"):
            options["ssl_context"] = self._context()
        return options

    def _context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.ssl_cafile)
            if self.ssl_certfile is not None:
                # never None: OpenSSL would ask on the terminal and wait there
                password = self.ssl_password.get_secret_value() if self.ssl_password else ""
                context.load_cert_chain(self.ssl_certfile, self.ssl_keyfile, password)
        except OSError as error:  # ssl.SSLError is one
            files = ", ".join(str(f) for f in (self.ssl_cafile, self.ssl_certfile, self.ssl_keyfile) if f)
            raise SettingsError(
                f"kafka_security: the certificates cannot be used ({error}); expected PEM files that this process "
                f"may read; check {files or 'the system store'}"
            ) from None
        return context


class Source(_Table):
    """Who may publish on an action topic; empty: anybody. A payload that claims otherwise is refused."""

    tenants: tuple[str, ...] = ()
    agents: tuple[str, ...] = ()


def _under_state(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda so_far: so_far.get("state_dir", STATE_DIR) / name


def _wire(name: str) -> str:
    if name not in WIRES:
        raise ValueError(f"{name!r} is no tripwire; there are {', '.join(WIRES)}")
    return name


Wire = Annotated[str, AfterValidator(_wire)]


class Settings(BaseSettings):
    """Every setting, by the name it has in `hitl.toml`. Raises SettingsError where a value cannot be used."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, use_attribute_docstrings=True
    )

    kafka: Annotated[str, AfterValidator(_servers)] = "127.0.0.1:9092"
    """Kafka's bootstrap servers."""
    kafka_security: Security = Security()
    """TLS and SASL, passed to the Kafka clients."""
    prefix: TopicName = "hitl."
    """What every topic's name begins with."""
    topics: dict[Annotated[str, AfterValidator(_logical)], WholeTopicName] = Field({})
    """Other names for single topics: {logical: name}; a name given here gets no prefix."""
    partitions: Annotated[int, Field(ge=1, le=10_000)] = 12
    """Partitions of every entity topic, fixed for the life of a topic set."""
    sources: dict[WholeTopicName, Source] = Field({})
    """Action topics bound to publishers: {topic: {tenants, agents}}."""
    state_dir: Filepath = Field(default_factory=lambda: STATE_DIR)
    """Lock files, HALT, local databases, demo.json."""
    keys_dir: Filepath = Field(default_factory=_under_state("keys"))
    """Key files, each 0600."""
    trust: Annotated[str, Field(pattern="^([0-9a-f]{64})?$")] = ""
    """Digest of the first `keys` record."""
    policy: Filepath | None = None
    """Policy file, until one is promoted on the control topic."""
    tenant: Annotated[str, AfterValidator(_tenant)] = ""
    """Tenant of an action id that is written without one."""
    adapter: str = ""
    """What carries actions out: http, log (only says what it would do), or module:factory."""
    adapter_options: dict[str, Option] = Field({}, repr=False)
    """What the adapter is made with: {option: value}."""
    slot: Annotated[int, Field(ge=0, le=999)] | None = None
    """Which of this host's processes this is; not given: the first free one."""
    bind: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """Address that metrics and console listen on."""
    metrics_port: Port = 9464
    """Port of /metrics, /livez, /readyz and /version; 0: any free one, which the log names."""
    console_port: Port = 8080
    """Port of the console; 0: any free one."""
    console_hosts: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    """Names under which the console is reached, besides localhost and `bind`."""
    console_scrape: Annotated[tuple[MetricsUrl, ...], Field(max_length=50), BeforeValidator(_listed)] = ()
    """URLs of the /metrics that the console's live page is drawn from."""
    console_names: bool = False
    """Whether a queue's owner sees its reviewers by name; else by pseudonym."""
    store: Place = Field(default_factory=_under_state("view.db"), repr=False)
    """The console's view: path of an SQLite file, or a Postgres DSN."""
    people: Place = Field(default_factory=_under_state("people.db"), repr=False)
    """Accounts, the same."""
    tripwires: dict[Wire, Literal["off", "observe", "engage"]] = Field({})
    """What a tripwire does: {wire: observe} logs and counts, the default; engage stops the agent; off."""
    window_ids_max: Annotated[int, Field(ge=1_000)] = 1_000_000
    """How many ids a process remembers against duplicates; 195 MB a million."""
    batch_records_max: Annotated[int, Field(ge=1, le=100_000)] = 4_000
    """How many records are decided in one go."""
    calls_max: Annotated[int, Field(ge=1, le=10_000)] = 64
    """How many calls to the platform an executor has open at once."""
    call_s_max: Annotated[float, Field(gt=0, le=30)] = 10.0
    """How long a call may go without an answer; then the platform is asked what became of it."""
    canary_age_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 86_400.0
    """How old a judgement is at least from whose action a monitor makes a canary; a demo has no day."""
    watch_people: bool = True
    """Whether a monitor keeps anything of single people; false: shares of whole queues only, no level, no canary."""
    notify_urls: Annotated[tuple[SecretStr, ...], Field(max_length=10, repr=False), BeforeValidator(_listed)] = ()
    """Whom `hitl notify run` tells: URLs as apprise reads them, several with commas."""
    notify_every_s: Annotated[float, Field(ge=60, allow_inf_nan=False)] = 900.0
    """At most one message about what waits in so many seconds; switches and pages are told at once."""
    expected_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Actions a second over all agents, for `hitl config check`."""
    log_format: Literal["auto", "json", "console"] = "auto"
    """`auto`: console on a terminal, else JSON."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least that is logged."""
    origins: dict[str, str] = Field({}, exclude=True, repr=False)
    """Internal: where each value comes from."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put our own sources, which remember where a value stood, in the place of pydantic's."""
        layers = (
            _Flags(settings_cls, init_settings()),
            _Environment(settings_cls, os.environ),
            _File(settings_cls, os.environ),
            _Demo(settings_cls),
        )
        return (*layers, _Origins(settings_cls, layers))

    @model_validator(mode="after")
    def _stops_nobody_unnamed(self) -> Self:
        if self.tripwires.get("mismatch") == "engage":
            raise ValueError(
                "tripwires: mismatch cannot engage, since it names no publisher, and a tripwire stops nothing wider; "
                "write observe"
            )
        return self

    @model_validator(mode="wrap")
    @classmethod
    def _explained(cls, values: Any, validate: Callable[[Any], Self]) -> Self:
        try:
            return validate(values)
        except ValidationError as error:
            origins = values.get("origins", {}) if isinstance(values, dict) else {}
            # a value that could not be derived because another is wrong says nothing new
            found = [e for e in error.errors() if e["type"] != "default_factory_not_called"]
            raise SettingsError("\n".join(_explain(one, origins) for one in found)) from None


NAMES = tuple(name for name in Settings.model_fields if name != "origins")


def load(**flags: Any) -> Settings:
    """Return the settings of this process; `flags` that are None were not given.

    Raises:
        SettingsError: naming for each problem the source, the key, what was found and what to do.
    """
    return Settings(**{name: value for name, value in flags.items() if value is not None})


def origin(settings: Settings) -> dict[str, str]:
    """Say for each setting where its value comes from; several sources of one table are joined by a comma."""
    return {name: settings.origins.get(name, "default") for name in NAMES}


def shown(settings: Settings) -> dict[str, Any]:
    """Return every setting as plain data for `hitl config show`, secrets masked."""
    values = settings.model_dump(mode="json")
    security = values["kafka_security"]
    values["kafka_security"] = {k: MASK if k in _SECRETS else v for k, v in security.items() if v is not None}
    values["adapter_options"] = {k: _masked_option(k, v) for k, v in settings.adapter_options.items()}
    values["notify_urls"] = [MASK for _ in settings.notify_urls]
    return {name: _masked(values[name]) if name in ("store", "people") else values[name] for name in NAMES}


def topic_set(settings: Settings) -> TopicSet:
    """Return the names and the partition count of this installation's topics."""
    return TopicSet(settings.prefix, settings.partitions, dict(settings.topics))


def kafka_client(settings: Settings) -> dict[str, Any]:
    """Return what every Kafka client of this process is made with."""
    return {
        "bootstrap_servers": settings.kafka,
        "client_id": f"hitl-{__version__}",
        **settings.kafka_security.options(),
    }


_SECRETS = ("sasl_plain_password", "ssl_password")
_HOLD_SECRETS = ("store", "people", "adapter_options", "notify_urls")


def _masked_option(name: str, value: Option) -> Option:
    """Hide what is a secret by its name, and the password of a URL; the path of a secret is none."""
    if _SECRET_OPTION.search(name) and not name.endswith(_PATH_OPTION):
        return MASK
    return _masked(value) if isinstance(value, str) else value


def _masked(dsn: str) -> str:
    """Return a DSN without its password: in `scheme://user:password@host` or in `password=…`."""
    return _PASSWORD_OF_DSN.sub(lambda m: f"{m[3]}{MASK}" if m[3] else f"{m[1]}:{MASK}@", dsn)


# ── checks ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class PolicyFacts:
    """What the checks need to know of a policy: for how long ids must be remembered, and which class asks for it."""

    max_age_ms: int
    of: str


def facts_of(policy: Policy) -> PolicyFacts:
    """Return the longest admission of any class."""
    ages = {name: cls.max_age or policy.defaults.max_age for name, cls in policy.classes.items()}
    longest = max(ages, key=ages.__getitem__)
    return PolicyFacts(ages[longest], longest)


def check(settings: Settings, policy_facts: PolicyFacts | None = None) -> tuple[Problem, ...]:
    """Return what would go wrong with these settings on this machine now; a `note` only informs."""
    return (
        *_unknown_variables(os.environ),
        *_check_window(settings, policy_facts),
        *_check_state(settings.state_dir),
        *_check_keys(settings.keys_dir),
        *_check_policy(settings.policy),
        *_check_ports(settings),
    )


def _check_window(settings: Settings, facts: PolicyFacts | None) -> list[Problem]:
    if facts is None:
        return []
    rule, ids, seconds = "settings.window", settings.window_ids_max, facts.max_age_ms / 1_000
    carries = f"{_count(ids)} ids carry {_rate(ids / seconds)}/s at {_span(seconds)}"
    why = f"max_age of class {facts.of}; about {_count(ids * IDS_BYTES)}B of memory"
    rate = settings.expected_rate
    if rate is None or rate * seconds <= ids:
        return [Problem(rule, f"{carries} ({why})", "window_ids_max", severity="note")]
    needed = math.ceil(rate * seconds)
    return [
        Problem(
            rule,
            f"{carries} ({why}), but expected_rate is {_rate(rate)}/s; at the limit partitions slow down. Raise "
            f"window_ids_max to {needed} ({_count(needed * IDS_BYTES)}B if one process has every partition), "
            f"or lower the class's max_age to {_span(ids / rate)}",
            "window_ids_max",
        )
    ]


def _check_state(state_dir: Path) -> list[Problem]:
    nearest = next(p for p in (state_dir, *state_dir.absolute().parents) if p.exists())
    if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK):
        return []
    found = "cannot be written to" if nearest.is_dir() else "is not a directory"
    return [Problem("settings.state_dir", f"{nearest} {found}; give this user a directory of its own", "state_dir")]


def _check_keys(keys_dir: Path) -> list[Problem]:
    rule = "settings.keys"
    try:
        if keys_dir.stat().st_mode & 0o022:
            return [Problem(rule, f"others may write to {keys_dir}; run: chmod 700 {keys_dir}", "keys_dir")]
        files = sorted(path for path in keys_dir.iterdir() if path.is_file())
        modes = [(path, path.stat().st_mode & 0o777) for path in files]
    except OSError as error:
        found = f"{keys_dir} cannot be read ({error.strerror})"
        return [Problem(rule, f"{found}; it must hold this process's key files, each 0600", "keys_dir")]
    if not files:
        return [Problem(rule, f"{keys_dir} is empty; it must hold this process's key files, each 0600", "keys_dir")]
    return [
        Problem(rule, f"{path} has mode {mode:04o}, expected 0600; run: chmod 600 {path}", "keys_dir")
        for path, mode in modes
        if mode & ~0o600  # 0400 is fine too
    ]


def _check_policy(policy: Path | None) -> list[Problem]:
    if policy is None:
        return []
    try:
        with policy.open("rb") as file:
            file.read(1)
    except OSError as error:
        found = f"{policy} cannot be read ({error.strerror}); name a policy file that this user may read"
        return [Problem("settings.policy", found, "policy")]
    return []


def _check_ports(settings: Settings) -> list[Problem]:
    ports = {"metrics_port": settings.metrics_port, "console_port": settings.console_port}
    if settings.metrics_port == settings.console_port != 0:
        found = f"{settings.console_port} is also the metrics_port; choose another"
        return [Problem("settings.ports", found, "console_port")]
    return [problem for name, port in ports.items() if port for problem in _check_port(name, settings.bind, port)]


def _check_port(name: str, host: str, port: int) -> list[Problem]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            found = (
                f"cannot listen on {host}:{port} ({error.strerror or error}); is hitl up already? Else choose another"
            )
            return [Problem("settings.ports", found, name)]
    return []


def _unknown_variables(environ: Mapping[str, str]) -> list[Problem]:
    found = []
    for variable in sorted(v for v in environ if v.startswith(PREFIX)):
        name = variable.removeprefix(PREFIX).removesuffix("_FILE").split("__")[0].lower()
        if name not in NAMES and name not in NOT_SETTINGS:
            hint = _similar(name, NAMES, lambda n: f"{PREFIX}{n.upper()}")
            found.append(Problem("settings.unknown", f"{variable} is no setting{hint}", variable, severity="warning"))
    return found


def _count(n: float) -> str:
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if n >= size:
            return f"{n / size:.3g}{unit}"
    return f"{n:.0f} "


def _rate(n: float) -> str:
    return f"{math.floor(n):,}" if n >= 10 else f"{n:.2g}"


def _span(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:.0f} {unit}"
    return f"{math.floor(seconds * 1_000) / 1_000:g} s"


# ── sources ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Layer(PydanticBaseSettingsSource):
    """One source. `places` says, for each name it gives, where exactly the value stood."""

    def __init__(self, settings_cls: type[BaseSettings]) -> None:
        super().__init__(settings_cls)
        self.places: dict[str, str] = {}

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Do nothing: these sources give all their values at once."""
        return None, field_name, False


class _Flags(_Layer):
    def __init__(self, settings_cls: type[BaseSettings], flags: dict[str, Any]) -> None:
        super().__init__(settings_cls)
        self.flags = flags

    def __call__(self) -> dict[str, Any]:
        self.places = {name: f"flag --{name.replace('_', '-')}" for name in self.flags}
        _refuse_unknown("flags", self.flags)
        return dict(self.flags)


class _Environment(_Layer):
    """`HITL_NAME`, `HITL_NAME__ENTRY`, and either with `_FILE`. Variables that name no setting belong to others."""

    def __init__(self, settings_cls: type[BaseSettings], environ: Mapping[str, str]) -> None:
        super().__init__(settings_cls)
        self.environ = environ

    def __call__(self) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for variable in sorted(v for v in self.environ if v.startswith(PREFIX)):
            name, _, entry = variable.removeprefix(PREFIX).removesuffix("_FILE").lower().partition("__")
            if name not in NAMES or not self.environ[variable]:
                continue
            text = self._text(variable)
            if entry:
                values.setdefault(name, {})[entry] = text
            else:
                # sorted: the whole table comes before its entries, which then go on top
                values[name] = _from_json(variable, text) if name in _TABLES else text
            self._note(name, variable)
        return values

    def _text(self, variable: str) -> str:
        text = self.environ[variable]
        if not variable.endswith("_FILE"):
            return text
        plain = variable.removesuffix("_FILE")
        if self.environ.get(plain):
            raise SettingsError(
                f"environment: both {plain} and {variable} are set; expected one of them; unset the other"
            )
        return _secret(variable, Path(text))

    def _note(self, name: str, variable: str) -> None:
        place = f"environment {variable}"
        if variable.endswith("_FILE"):
            place = f"file {self.environ[variable]} ({variable})"
        self.places[name] = f"{self.places[name]}, {place}" if name in self.places else place


class _File(_Layer):
    def __init__(self, settings_cls: type[BaseSettings], environ: Mapping[str, str]) -> None:
        super().__init__(settings_cls)
        self.named = environ.get(f"{PREFIX}CONFIG", "")

    def __call__(self) -> dict[str, Any]:
        path = Path(self.named).expanduser() if self.named else Path(FILE_NAME)
        if not self.named and not path.is_file():
            return {}
        try:
            values = tomllib.loads(path.read_text("utf-8"))
        except OSError as error:
            raise SettingsError(
                f"environment {PREFIX}CONFIG: {path} cannot be read ({error.strerror}); expected a TOML file"
            ) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"{path}: not TOML: {error}; mend that place") from None
        _refuse_unknown(str(path), values)
        self.places = dict.fromkeys(values, str(path))
        return _from_directory(values, path.absolute().parent)


class _Demo(_Layer):
    """`demo.json` is `{"pid": 4711, "settings": {…}}`, from `hitl demo`; one whose process is gone is ignored."""

    def __call__(self) -> dict[str, Any]:
        if "kafka" in self.current_state:
            return {}
        path = Path(str(self.current_state.get("state_dir") or STATE_DIR)) / "demo.json"
        try:
            path = path.expanduser()
            demo = json.loads(path.read_bytes())
            pid, values = int(demo["pid"]), dict(demo["settings"])
        except (FileNotFoundError, NotADirectoryError, RuntimeError):  # the last: no home to look in
            return {}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SettingsError(
                f'{path}: cannot be used ({error!r}); expected {{"pid": …, "settings": {{…}}}}; remove it, or set kafka'
            ) from None
        if not _alive(pid):
            return {}
        _refuse_unknown(str(path), values)
        self.places = dict.fromkeys(values, f"demo {path}")
        return values


class _Origins(_Layer):
    """Comes last, when the other sources have been asked, and says what stood where."""

    def __init__(self, settings_cls: type[BaseSettings], layers: tuple[_Layer, ...]) -> None:
        super().__init__(settings_cls)
        self.layers = layers

    def __call__(self) -> dict[str, Any]:
        places: dict[str, list[str]] = {}
        for layer in self.layers:
            for name, place in layer.places.items():
                before = places.setdefault(name, [])
                if not before or name in _TABLES:
                    before.append(place)
        return {"origins": {name: ", ".join(all_of) for name, all_of in places.items()}}


_TABLES = ("adapter_options", "kafka_security", "sources", "topics")
_PATHS = ("state_dir", "keys_dir", "policy")
_PATHS_OF_SECURITY = ("ssl_cafile", "ssl_certfile", "ssl_keyfile")


def _from_json(variable: str, text: str) -> dict[str, Any]:
    with suppress(ValueError):
        value = json.loads(text)
        if isinstance(value, dict):
            return value
    raise SettingsError(f"environment {variable}: found no JSON object; write one, such as {{}}, or use {FILE_NAME}")


def _secret(variable: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(SECRET_BYTES_MAX + 1)
        if len(data) <= SECRET_BYTES_MAX:
            return data.decode().rstrip("\r\n")
        found = f"is longer than {SECRET_BYTES_MAX} bytes"
    except OSError as error:
        found = f"cannot be read ({error.strerror})"
    except UnicodeDecodeError:
        found = "is not UTF-8"
    raise SettingsError(f"environment {variable}: {path} {found}; expected a file with the value and nothing else")


def _from_directory(values: dict[str, Any], start: Path) -> dict[str, Any]:
    """Return the values with relative paths made absolute: a file means the same wherever a command is run."""

    def anchored(value: Any) -> Any:
        return str(start / Path(value).expanduser()) if isinstance(value, str) and value else value

    values = {name: anchored(value) if name in _PATHS else value for name, value in values.items()}
    for name in ("store", "people"):
        value = values.get(name)
        if isinstance(value, str) and "://" not in value and "=" not in value:
            values[name] = anchored(value)
    security = values.get("kafka_security")
    if isinstance(security, dict):
        values["kafka_security"] = {k: anchored(v) if k in _PATHS_OF_SECURITY else v for k, v in security.items()}
    options = values.get("adapter_options")
    if isinstance(options, dict):
        values["adapter_options"] = {k: anchored(v) if k.endswith(_PATH_OPTION) else v for k, v in options.items()}
    return values


def _alive(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return False  # somebody else's process took the number
    return True


# ── messages ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _refuse_unknown(source: str, values: Mapping[str, Any]) -> None:
    unknown = [name for name in values if name not in NAMES]
    if unknown:
        lines = (f"{source}: {name!r} is no setting{_similar(name, NAMES, str)}" for name in unknown)
        raise SettingsError("\n".join(lines))


def _similar(name: str, names: tuple[str, ...], write: Callable[[str], str]) -> str:
    close = get_close_matches(name, names, 1)
    return f"; did you mean {write(close[0])}?" if close else f"; the settings are {', '.join(map(write, names))}"


def _explain(error: ErrorDetails, origins: Mapping[str, str]) -> str:
    name, *within = (str(part) for part in error["loc"])
    key = ".".join((name, *within))
    # a secret is not repeated; neither is what should have been a table, since one may stand in it
    hidden = name in _HOLD_SECRETS or key in _TABLES or (bool(within) and within[-1] in _SECRETS)
    found = "" if hidden else f"found {error['input']!r}: "
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        found, message = "", "no such entry; remove it or mend its name"
    if error["type"] == "value_error":
        found = ""  # our own messages say what was found
    return f"{origins.get(name, 'default')}: {key}: {found}{message}"
