"""An adapter by its name: the ones that come with us, anybody's, and what is said of a name that leads nowhere."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hitl_stream.adapters import BUILT_IN, load_adapter
from hitl_stream.adapters.http import HttpAdapter
from hitl_stream.adapters.log import LogAdapter
from hitl_stream.core.errors import SettingsError
from hitl_stream.dev.platform import ClaimingAdapter
from support.ads import StillClock

CLOCK = StillClock()
MINE = """
from hitl_stream.core.errors import SettingsError, UsageError
from hitl_stream.execute import Adapter, Applied, NotApplied

class Mine(Adapter):
    def __init__(self, account: str, attempts: int = 3) -> None:
        self.account, self.attempts = account, attempts
    async def apply(self, action, idempotency_key, not_after_ms, epoch): return Applied()
    async def read_back(self, action, idempotency_key): return NotApplied()
    async def present(self, change, action): return None

class Watched(Mine):
    def __init__(self, now_ms, **options): self.now_ms, self.options = now_ms, options

class Half(Adapter):
    async def apply(self, action, idempotency_key, not_after_ms, epoch): return Applied()

class Odd:
    fence = "yes"
    async def apply(self, action, idempotency_key, not_after_ms, epoch): return Applied()

class box:
    Mine = Mine

def broken(): raise ValueError("no such account")
def choosy(): raise UsageError("account: found none")
async def later(): return Mine("a")
number = 7
"""


@pytest.fixture(autouse=True)
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of somebody's, where Python finds it."""
    (tmp_path / "my_ads.py").write_text(MINE)
    (tmp_path / "my_broken.py").write_text("import no_such_module_of_mine\n")
    monkeypatch.syspath_prepend(str(tmp_path))


def refused(name: str, **options: Any) -> str:
    with pytest.raises(SettingsError) as found:
        load_adapter(name, options, CLOCK)
    return str(found.value)


@pytest.mark.parametrize(
    ("name", "options", "kind"),
    [
        ("log", {}, LogAdapter),
        ("log", {"keys_max": "10"}, LogAdapter),
        ("http", {"base_url": "http://ads", "fence": True}, HttpAdapter),
        ("hitl_stream.dev.platform:claiming_adapter", {"base_url": "http://ads"}, ClaimingAdapter),
    ],
)
def test_the_adapters_that_come_with_us_are_found(name: str, options: dict[str, Any], kind: type):
    assert type(load_adapter(name, options, CLOCK)) is kind


def test_an_adapter_of_ones_own_is_made_with_its_options():
    adapter: Any = load_adapter("my_ads:Mine", {"account": "acc-17", "attempts": 5}, CLOCK)

    assert (adapter.account, adapter.attempts, adapter.fence) == ("acc-17", 5, False)
    assert type(load_adapter("my_ads:box.Mine", {"account": "a"}, CLOCK)).__name__ == "Mine"


def test_who_asks_for_the_clock_gets_it():
    adapter: Any = load_adapter("my_ads:Watched", {"any": 1}, CLOCK)

    assert adapter.now_ms is CLOCK
    assert adapter.options == {"any": 1}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("", {}, "adapter: none is named; expected http, log (carries nothing out, only says what it would do), or"),
        ("htpp", {}, "adapter: found 'htpp'; expected http, log"),
        (":make", {}, "adapter: found ':make'; expected http, log"),
        ("my_ads:", {}, "adapter: found 'my_ads:'; expected http, log"),
        (
            "no_such:make",
            {},
            "adapter: no_such cannot be imported (ModuleNotFoundError: No module named 'no_such'); ins",
        ),
        ("my_broken:make", {}, "my_broken cannot be imported (ModuleNotFoundError: No module named 'no_such_module_of"),
        ("my_ads:make", {}, "adapter: my_ads has no function or class 'make'; mend `adapter`"),
        ("my_ads:number", {}, "adapter: my_ads has no function or class 'number'"),
        (
            "my_ads:Mine",
            {},
            "adapter_options: my_ads:Mine: missing a required argument: 'account'; its options are: acc",
        ),
        ("my_ads:Mine", {"acount": 1}, "its options are: account, attempts"),
        ("my_ads:broken", {"x": 1}, "got an unexpected keyword argument 'x'; its options are: none"),
        ("log", {"now_ms": 7}, "adapter_options.now_ms: no option; an adapter gets its clock from us; remove it"),
        ("my_ads:broken", {}, "adapter: my_ads:broken raised ValueError: no such account; see adapter_options"),
        ("my_ads:Half", {}, "Can't instantiate abstract class Half with abstract methods present, read_back"),
        ("my_ads:Odd", {}, "made a Odd without read_back, present, __aenter__, __aexit__, fence (True or False); der"),
        ("my_ads:later", {}, "adapter: my_ads:later is async; expected a plain function"),
        ("http", {}, "adapter_options.base_url: Field required"),
    ],
)
def test_a_name_that_leads_nowhere_says_what_to_do(name: str, options: dict[str, Any], message: str):
    assert message in refused(name, **options)


def test_what_an_adapter_finds_wrong_is_said_in_its_own_words():
    with pytest.raises(Exception, match=r"^account: found none$"):
        load_adapter("my_ads:choosy", {}, CLOCK)


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_every_built_in_name_is_offered(name: str):
    found: Callable[[str], re.Match[str] | None] = re.compile(rf"\b{name}\b").search

    assert found(refused("nothing"))
