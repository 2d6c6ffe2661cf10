"""`hitl notify run`, before it listens: what is missing is named, and no target is ever shown."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import hitl_stream.cli.main  # noqa: F401  # so that it is in sys.modules, where the package's own `main` cannot hide it
from hitl_stream.cli import notify
from hitl_stream.cli.notify import targets_of
from hitl_stream.core.errors import SettingsError
from hitl_stream.settings import load
from hitl_stream.wire.seal import create_key

# apprise loads each kind of target at once, one of them by a module that Python itself takes leave of.
LOADS = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
SECRET = "mailtos://me:hush-hush@example.com"


@pytest.fixture(autouse=True)
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HITL_STATE_DIR", str(tmp_path))
    return tmp_path


def hitl(*arguments: str) -> int:
    return int(sys.modules["hitl_stream.cli.main"].run([*arguments]))


def test_without_the_desks_seal_nothing_that_is_read_would_count(capsys: pytest.CaptureFixture[str]):
    assert hitl("notify", "run") == 2
    assert "no key seal-desk-<id>" in capsys.readouterr().err


def test_without_a_target_it_says_where_one_is_named(site: Path, capsys: pytest.CaptureFixture[str]):
    create_key(site / "keys", "seal-desk", "d1")
    assert hitl("notify", "run") == 2
    assert "HITL_NOTIFY_URLS" in capsys.readouterr().err


def test_config_show_says_how_many_targets_there_are_and_none_of_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("HITL_NOTIFY_URLS", f"{SECRET},json://example.com")
    assert hitl("config", "show", "--json") == 0
    said = capsys.readouterr().out

    assert "hush" not in said
    assert "example.com" not in said
    assert json.loads(said)["notify_urls"]["value"] == ["********", "********"]


@LOADS
def test_each_target_has_a_place_of_its_own_that_does_not_tell_what_it_is():
    targets = targets_of(load(notify_urls=["json://example.com/a", "json://example.com/b"], prefix="acme."))

    assert len(targets) == 2
    assert all(group.startswith("acme-notify.") and "example" not in group for group in targets)


@LOADS
def test_a_target_that_is_none_is_named_by_its_number_and_kind_alone():
    with pytest.raises(SettingsError, match=r"target 2 of 2 \(nonsense:…\)") as refused:
        targets_of(load(notify_urls=["json://example.com", "nonsense://me:hush@example.com"]))
    assert "hush" not in str(refused.value)


def test_where_apprise_is_not_installed_it_says_what_to_run(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(SettingsError, match=r"hitl-stream\[notify\]"):
        targets_of(load(notify_urls=["json://example.com"]))
    assert notify.EXTRA == "pip install 'hitl-stream[notify]'"
