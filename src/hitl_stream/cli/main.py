"""The entry point: joins the verbs, and turns errors into one clear line and an exit code."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import NoReturn

from cyclopts import App, CycloptsError

from hitl_stream import __version__
from hitl_stream.cli.terminal import out, say
from hitl_stream.core.errors import HitlError

INTERRUPTED = 130
USAGE = 2
INTERNAL = 6
VERBS = (
    "decide",
    "policy",
    "topics",
    "logs",
    "dlq",
    "tail",
    "run",
    "dev",
    "settings",
    "doctor",
    "init",
    "keys",
    "confirm",
    "kill",
    "release",
    "switches",
    "rules",
    "gates",
    "pin",
    "drill",
    "farewell",
    "user",
    "review",
    "console",
    "export",
    "report",
    "report_gates",
    "erase",
    "reverse",
    "completion",
    "notify",
)
"""Modules of this package; each registers its verbs on `app` through `register(app)`."""
IN_A_HURRY = ("keys", "confirm", "kill", "release", "switches", "farewell")
"""Verbs that are the name of their module: nothing else is loaded for them, which takes half of the time."""


def build(verb: str = "") -> App:
    """Return the application with every verb, or with the one that is in a hurry alone."""
    app = App(
        name="hitl",
        help="Human in the loop for AI agents: score, route, review and stop every action, exactly once, on Kafka.",
        version=__version__,
    )
    for module in (verb,) if verb in IN_A_HURRY and verb in VERBS else VERBS:
        import_module(f"hitl_stream.cli.{module}").register(app)
    return app


def main() -> NoReturn:
    """Run `hitl`."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    try:
        app = build(next(iter(arguments), ""))
        result = app(arguments, exit_on_error=False, print_error=False, console=out, result_action="return_value")
    except CycloptsError as error:
        say(f"{error}\nTry: hitl --help")
        return USAGE
    except HitlError as error:
        say(str(error))
        return error.exit_code
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except Exception:
        import structlog  # here: it takes a tenth of a second, and who stops something has none to lose

        from hitl_stream import logs

        if not structlog.is_configured():
            logs.configure(stream=sys.stderr)  # by itself it would print every variable of every frame
        structlog.get_logger().exception("an error of hitl itself")
        say("hitl broke on an error of its own; the log above says where. Please report it with that log.")
        return INTERNAL
    except KeyboardInterrupt:
        return INTERRUPTED
    return result if isinstance(result, int) else 0
