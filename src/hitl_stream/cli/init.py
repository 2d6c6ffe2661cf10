"""`hitl init DIR`: a directory with everything that an installation of one's own begins with.

A policy with cases of its own, the settings, a compose file with its image, dashboards, alerts and runbooks, and a
Makefile of the first commands. Where a Kafka answers, topics, seals and the keys of two holders are made, too. Nothing
that is there already is touched.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from hitl_stream import __version__
from hitl_stream.cli.keys import begin
from hitl_stream.cli.settings import Json
from hitl_stream.cli.terminal import emit, out
from hitl_stream.cli.topics import reading
from hitl_stream.core.errors import HitlError, RefusedError, UsageError
from hitl_stream.core.escape import escaped
from hitl_stream.lane import admin
from hitl_stream.settings import load
from hitl_stream.wiring import kafka_client, make_monitor_keys, make_router_keys, topic_set

KAFKA = "127.0.0.1:9092"
HOLDERS_MIN = 2
SERVICES = ("control", "console", "monitor")
POLICY, CASES, SETTINGS = "policy.yaml", "policy.test.yaml", "hitl.toml"
SHARED = ("grafana/dashboards", "grafana/provisioning", "grafana/prometheus", "grafana/alertmanager", "docs/runbooks")
IN_IMAGE = """\
# One image for every role; `docker compose up --build` makes it.
FROM python:3.11-slim-bookworm
RUN useradd --uid 10001 --create-home --home-dir /var/lib/hitl --shell /usr/sbin/nologin hitl \\
    && install -d -o hitl -g hitl -m 0700 /var/lib/hitl/state /var/lib/hitl/state/keys
RUN pip install --no-cache-dir 'hitl-stream[console,postgres,sentiment]=={version}'
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HITL_STATE_DIR=/var/lib/hitl/state
USER hitl
WORKDIR /var/lib/hitl
VOLUME /var/lib/hitl/state
EXPOSE 9464 8080
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s --retries=5 \\
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:9464/livez', timeout=2)"]
ENTRYPOINT ["hitl"]
CMD ["--help"]
"""
MAKEFILE = """\
# What comes first. `hitl --help` knows the rest.
.PHONY: check doctor demo up

check:  ## the policy's form, and its own cases
\thitl policy lint policy.yaml
\thitl policy test policy.yaml

doctor:  ## what is well with this installation, and what mends the rest
\thitl doctor

demo:  ## everything on this machine for a minute, by this policy
\thitl demo --policy policy.yaml --seconds $(or $(DEMO_SECONDS),60)

up:  ## everything in containers
\tdocker compose up --build
"""
IGNORED = "# Keys and state are nobody else's.\nstate/\n"
TOML = """\
# Settings of this installation; `hitl config show` says what each is and where it comes from.
kafka = "{kafka}"
policy = "policy.yaml"
state_dir = "state"
{trust}"""
NO_TRUST = '# trust = "..."  # hitl keys init prints it\n'


def register(app: App) -> None:
    """Add the verb."""
    app.command(init)


def init(
    directory: Annotated[Path, Parameter(name="DIR")],
    /,
    *,
    kafka: str = KAFKA,
    holder: Annotated[tuple[str, ...], Parameter(name="--holder", negative="")] = ("first", "second"),
    json: Json = False,
) -> int:
    """Begin an installation of your own in a directory: policy and cases, settings, compose file, dashboards, keys.

    Parameters
    ----------
    directory
        An empty one, or one that is not there yet.
    kafka
        Its address. Where it answers, topics and keys are made there, too.
    holder
        Whose keys are made; two at least, since whatever loosens takes two people.
    json
        One object on stdout: {directory, files, kafka, trust}; `trust` is null where no Kafka answered.
    """
    if len(set(holder)) < HOLDERS_MIN:
        raise UsageError("two holders at least, since whatever loosens takes two people: --holder ana --holder ben")
    if directory.exists() and any(directory.iterdir()):
        raise RefusedError(f"{directory} is not empty, and nothing in it is touched; name another directory")
    directory.mkdir(parents=True, exist_ok=True)
    written = sorted(_files(directory, kafka))
    settings = load(kafka=kafka, policy=directory / POLICY, state_dir=directory / "state")
    make_router_keys(settings)
    make_monitor_keys(settings)
    trust, why = None, ""
    try:
        reading(admin.apply(kafka_client(settings), topic_set(settings)))
        trust = reading(begin(settings, holder, SERVICES)).trust
        (directory / SETTINGS).write_text(TOML.format(kafka=kafka, trust=f'trust = "{trust}"\n'), "utf-8")
    except HitlError as error:
        why = str(error)
    if json:
        emit({"directory": str(directory), "files": written, "kafka": kafka, "trust": trust})
    else:
        _say(directory, written, holder, trust, why)
    return 0


def _say(directory: Path, written: Sequence[str], holder: Sequence[str], trust: str | None, why: str) -> None:
    _print(f"{escaped(str(directory))}: {len(written)} files; begin with {POLICY}", "bold")
    if trust is None:
        _print(f"No topics and no signing keys yet: {escaped(why)}", "yellow")
        who = " ".join(f"--holder {escaped(name)}" for name in holder)
        _print(f"Once there is a Kafka: hitl topics apply; hitl keys init {who}; then put `trust` into {SETTINGS}.")
    else:
        who = escaped(", ".join(holder))
        _print(f"Topics are there, and keys of {who} under state/keys: give each their own, and keep none.")
    _print("Then, in that directory: hitl doctor; make check; make demo")


# --- files ------------------------------------------------------------------------------------------------------------


def _files(directory: Path, kafka: str) -> Iterator[str]:
    """Write everything that needs no Kafka; yield what was written, from the directory."""
    policies = files("hitl_stream") / "dev" / "policies"
    texts = {
        POLICY: (policies / "acme.yaml").read_text("utf-8"),
        CASES: (policies / "acme.test.yaml").read_text("utf-8"),
        SETTINGS: TOML.format(kafka=kafka, trust=NO_TRUST),
        "Makefile": MAKEFILE,
        "Dockerfile": IN_IMAGE.format(version=__version__),
        ".gitignore": IGNORED,
        "docker-compose.yml": compose((shared() / "docker-compose.yml").read_text("utf-8")),
    }
    for name, text in texts.items():
        (directory / name).write_text(text, "utf-8")
        yield name
    for name in SHARED:
        shutil.copytree(shared() / name, directory / name)
        yield from (str(path.relative_to(directory)) for path in (directory / name).rglob("*") if path.is_file())


def compose(text: str) -> str:
    """Return our compose file as an installation of its own needs it: with its own policy, and runbooks as files."""
    text = text.replace("HITL_POLICY: /policies/demo.yaml", f"HITL_POLICY: /policies/{POLICY}")
    text = text.replace("- ./src/hitl_stream/dev/policies:/policies:ro", f"- ./{POLICY}:/policies/{POLICY}:ro")
    head, docs, rest = text.partition("  docs: ")
    return head + rest[rest.index("\n\n") + 2 :] if docs else text


def shared() -> Path:
    """Return where what is shipped beside the package lies: in the wheel inside of it, in a checkout at its root."""
    inside = Path(str(files("hitl_stream"))) / "share"
    return inside if inside.is_dir() else Path(__file__).parents[3]


def _print(text: str, style: str | None = None) -> None:
    out.print(text, style=style, markup=False, soft_wrap=True)
