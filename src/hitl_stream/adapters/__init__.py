"""Platform adapters by name: `http` and `log` come with us, any other is named as `module:factory`.

A factory is called with the options as keyword arguments; one that has a parameter `now_ms` is also given a function
that returns control time. It must not wait: connections are opened in `__aenter__`. An option that came from the
environment is a text.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Final, TypeAlias, cast

from hitl_stream.core.errors import HitlError, SettingsError
from hitl_stream.execute import Adapter

Option: TypeAlias = str | int | float | bool
Clock: TypeAlias = Callable[[], int]
"""Returns control time in milliseconds since 1970."""

BUILT_IN: Final[Mapping[str, str]] = {
    "http": "hitl_stream.adapters.http:http_adapter",
    "log": "hitl_stream.adapters.log:LogAdapter",
}
CLOCK: Final = "now_ms"
NAMES: Final = "expected http, log (carries nothing out, only says what it would do), or module:factory"
ASKED: Final = ("apply", "read_back", "present", "__aenter__", "__aexit__")


def load_adapter(name: str, options: Mapping[str, Option], now_ms: Clock) -> Adapter:
    """Make the adapter that the settings name; it is not entered yet.

    Raises:
        SettingsError: it cannot be found or made, or what is made is no adapter.
    """
    factory = _factory(name)
    given = _arguments(name, factory, options, now_ms)
    try:
        adapter = factory(**given)
    except HitlError:
        raise
    except Exception as error:
        raise SettingsError(f"adapter: {name} raised {type(error).__name__}: {error}; see adapter_options") from error
    return _checked(name, adapter)


def _factory(name: str) -> Callable[..., Any]:
    if not name:
        raise SettingsError(f"adapter: none is named; {NAMES}; write it to `adapter` in hitl.toml, or HITL_ADAPTER")
    module_name, colon, path = BUILT_IN.get(name, name).partition(":")
    if not colon or not module_name or not path:
        raise SettingsError(f"adapter: found {name!r}; {NAMES}")
    found: Any
    try:
        found = import_module(module_name)
    except Exception as error:  # an import runs anybody's code
        raise SettingsError(
            f"adapter: {module_name} cannot be imported ({type(error).__name__}: {error}); install it into this "
            "environment, or put its directory on PYTHONPATH"
        ) from error
    for part in path.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise SettingsError(f"adapter: {module_name} has no function or class {path!r}; mend `adapter`")
    return cast(Callable[..., Any], found)


def _arguments(name: str, factory: Callable[..., Any], options: Mapping[str, Option], now_ms: Clock) -> dict[str, Any]:
    """Return what the factory is called with; say which options it does not take, or lacks."""
    if CLOCK in options:
        raise SettingsError(f"adapter_options.{CLOCK}: no option; an adapter gets its clock from us; remove it")
    given: dict[str, Any] = dict(options)
    try:
        signature = inspect.signature(factory)
    except ValueError:  # one written in C may have none; the call will tell
        return given
    wanted = signature.parameters.get(CLOCK)
    if wanted is not None and wanted.kind is not wanted.VAR_KEYWORD:
        given[CLOCK] = now_ms
    try:
        signature.bind(**given)
    except TypeError as error:
        takes = ", ".join(part for part in signature.parameters if part != CLOCK) or "none"
        raise SettingsError(f"adapter_options: {name}: {error}; its options are: {takes}") from None
    return given


def _checked(name: str, adapter: Any) -> Adapter:
    if inspect.iscoroutine(adapter):
        adapter.close()
        raise SettingsError(f"adapter: {name} is async; expected a plain function, with connections made in __aenter__")
    missing = [part for part in ASKED if not callable(getattr(adapter, part, None))]
    if not isinstance(getattr(adapter, "fence", None), bool):
        missing.append("fence (True or False)")
    if missing:
        found = type(adapter).__name__
        raise SettingsError(
            f"adapter: {name} made a {found} without {', '.join(missing)}; derive it from hitl_stream.execute.Adapter"
        )
    return cast(Adapter, adapter)
