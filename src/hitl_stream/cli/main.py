"""The entry point: joins the verbs, and turns errors into one clear line and an exit code."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import NoReturn

import structlog
from cyclopts import App, CycloptsError

from hitl_stream import __version__
from hitl_stream.cli.terminal import out, say
from hitl_stream.core.errors import HitlError

INTERRUPTED = 130
USAGE = 2
INTERNAL = 6
VERBS = ("decide", "policy", "topics", "logs", "run", "dev", "settings")
"""Modules of this package; each registers its verbs on `app` through `register(app)`."""


def build() -> App:
    """Return the application with every verb."""
    app = App(
        name="hitl",
        help="Human in the loop for AI agents: score, route, review and stop every action, exactly once, on Kafka.",
        version=__version__,
    )
    for verb in VERBS:
        import_module(f"hitl_stream.cli.{verb}").register(app)
    return app


def main() -> NoReturn:
    """Run `hitl`."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    try:
        result = build()(arguments, exit_on_error=False, print_error=False, console=out, result_action="return_value")
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
        structlog.get_logger().exception("an error of hitl itself")
        say("hitl broke on an error of its own; the log above says where. Please report it with that log.")
        return INTERNAL
    except KeyboardInterrupt:
        return INTERRUPTED
    return result if isinstance(result, int) else 0
