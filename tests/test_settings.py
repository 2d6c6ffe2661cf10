"""Settings: which source wins, what a wrong one says, what is never shown, and what `check` finds on a machine."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from hitl_stream.core.errors import SettingsError
from hitl_stream.core.policy.model import Policy
from hitl_stream.settings import (
    NAMES,
    SECRET_BYTES_MAX,
    PolicyFacts,
    Security,
    Settings,
    check,
    facts_of,
    load,
    origin,
    shown,
)

DEAD_PID = 2**22 + 1
"""Above Linux's largest process number."""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory and state directory, and no HITL_ variables but what a test sets."""
    for variable in [v for v in os.environ if v.startswith("HITL_")]:
        monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hitl_stream.settings.STATE_DIR", tmp_path / "state")
    return tmp_path


def refused(**flags: Any) -> str:
    with pytest.raises(SettingsError) as found:
        load(**flags)
    return str(found.value)


def write_demo(home: Path, pid: int, **settings: Any) -> Path:
    path = home / "state" / "demo.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"pid": pid, "settings": settings}))
    return path


def test_without_any_source_the_defaults_hold():
    settings = load()

    assert settings.kafka == "127.0.0.1:9092"
    assert (settings.prefix, settings.partitions, settings.batch_records_max) == ("hitl.", 12, 4_000)
    assert (settings.metrics_port, settings.console_port, settings.bind) == (9464, 8080, "127.0.0.1")
    assert settings.window_ids_max == 1_000_000
    assert set(origin(settings).values()) == {"default"}


def test_directories_and_databases_stand_under_the_state_directory(home: Path):
    settings = load(state_dir=home / "elsewhere")

    assert settings.keys_dir == home / "elsewhere" / "keys"
    assert settings.store == str(home / "elsewhere" / "view.db")
    assert settings.people == str(home / "elsewhere" / "people.db")


def test_a_flag_wins_over_the_environment_which_wins_over_the_file(home: Path, monkeypatch: pytest.MonkeyPatch):
    (home / "hitl.toml").write_text('prefix = "file."\npartitions = 3\nslot = 1\n')
    monkeypatch.setenv("HITL_PREFIX", "env.")
    monkeypatch.setenv("HITL_PARTITIONS", "4")

    settings = load(prefix="flag.", partitions=None)

    assert (settings.prefix, settings.partitions, settings.slot) == ("flag.", 4, 1)
    said = origin(settings)
    assert said["prefix"] == "flag --prefix"
    assert said["partitions"] == "environment HITL_PARTITIONS"
    assert said["slot"] == "hitl.toml"
    assert said["kafka"] == "default"


def test_origins_name_every_setting_and_nothing_else():
    assert tuple(origin(load())) == NAMES


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HITL_PREFIX", "")

    assert load().prefix == "hitl."


def test_hitl_config_points_at_the_file_and_its_relative_paths_start_there(home: Path, monkeypatch: pytest.MonkeyPatch):
    place = home / "etc"
    place.mkdir()
    (place / "mine.toml").write_text(
        'policy = "policy.yaml"\nstate_dir = "/var/x"\nstore = "view.db"\npeople = "postgres://h/db"\n'
        '[kafka_security]\nsecurity_protocol = "SSL"\nssl_cafile = "ca.pem"\n'
    )
    monkeypatch.setenv("HITL_CONFIG", str(place / "mine.toml"))

    settings = load()

    assert settings.policy == place / "policy.yaml"
    assert settings.state_dir == Path("/var/x")
    assert settings.store == str(place / "view.db")
    assert settings.people == "postgres://h/db"
    assert settings.kafka_security.ssl_cafile == place / "ca.pem"
    assert origin(settings)["policy"] == str(place / "mine.toml")


def test_a_table_is_merged_entry_by_entry_and_says_all_its_sources(home: Path, monkeypatch: pytest.MonkeyPatch):
    (home / "hitl.toml").write_text(
        '[kafka_security]\nsecurity_protocol = "SASL_SSL"\nsasl_mechanism = "SCRAM-SHA-512"\n'
        'sasl_plain_username = "hitl"\n'
    )
    (home / "password").write_text("hush\n")
    monkeypatch.setenv("HITL_KAFKA_SECURITY__SASL_PLAIN_PASSWORD_FILE", str(home / "password"))

    settings = load()

    options = settings.kafka_security.options()
    assert options["sasl_plain_password"] == "hush"
    assert (options["security_protocol"], options["sasl_mechanism"]) == ("SASL_SSL", "SCRAM-SHA-512")
    assert options["ssl_context"].check_hostname
    place = f"file {home / 'password'} (HITL_KAFKA_SECURITY__SASL_PLAIN_PASSWORD_FILE)"
    assert origin(settings)["kafka_security"] == f"{place}, hitl.toml"


def test_an_entry_goes_on_top_of_the_table_that_a_variable_gives(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HITL_TOPICS", '{"actions": "a", "dlq": "d"}')
    monkeypatch.setenv("HITL_TOPICS__ACTIONS", "b")

    assert load().topics == {"actions": "b", "dlq": "d"}


def test_sources_bind_a_topic_to_publishers(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HITL_SOURCES", '{"bids": {"tenants": ["acme"], "agents": ["bidder-7"]}}')

    source = load().sources["bids"]

    assert (source.tenants, source.agents) == (("acme",), ("bidder-7",))


def test_options_of_the_adapter_are_a_table_like_any_other(home: Path, monkeypatch: pytest.MonkeyPatch):
    (home / "hitl.toml").write_text(
        'adapter = "http"\n[adapter_options]\nbase_url = "http://ads"\nfence = true\ncall_s = 2.5\nattempts = 3\n'
    )
    monkeypatch.setenv("HITL_ADAPTER_OPTIONS__BASE_URL", "http://gateway")

    settings = load()

    assert settings.adapter == "http"
    assert settings.adapter_options == {"base_url": "http://gateway", "fence": True, "call_s": 2.5, "attempts": 3}
    assert settings.adapter_options["fence"] is True
    assert origin(settings)["adapter_options"] == "environment HITL_ADAPTER_OPTIONS__BASE_URL, hitl.toml"


def test_no_adapter_is_the_default():
    assert (load().adapter, load().adapter_options) == ("", {})


def test_a_file_among_the_adapters_options_stands_beside_the_settings(home: Path, monkeypatch: pytest.MonkeyPatch):
    place = home / "etc"
    place.mkdir()
    (place / "mine.toml").write_text('[adapter_options]\ntoken_file = "token"\nbase_url = "ads"\n')
    monkeypatch.setenv("HITL_CONFIG", str(place / "mine.toml"))

    assert load().adapter_options == {"token_file": str(place / "token"), "base_url": "ads"}


def test_an_option_of_the_adapter_can_be_read_from_a_file(home: Path, monkeypatch: pytest.MonkeyPatch):
    (home / "secret").write_text("hush\n")
    monkeypatch.setenv("HITL_ADAPTER_OPTIONS__TOKEN_FILE", str(home / "secret"))

    settings = load()

    assert settings.adapter_options == {"token": "hush"}
    assert shown(settings)["adapter_options"] == {"token": "********"}


def test_what_is_no_secret_among_the_adapters_options_is_shown():
    options = {"base_url": "https://u:hush@ads/v1", "token_file": "/run/token", "call_s": 2.5, "api_key": "hush"}

    said = shown(load(adapter_options=options))["adapter_options"]

    assert said == {
        "base_url": "https://u:********@ads/v1",
        "token_file": "/run/token",
        "call_s": 2.5,
        "api_key": "********",
    }


def test_plaintext_needs_no_options_but_the_protocol():
    assert load().kafka_security.options() == {"security_protocol": "PLAINTEXT"}


def test_a_key_that_is_no_key_is_refused_without_asking_for_a_password(home: Path):
    (home / "key.pem").write_text("no key")
    security = Security(security_protocol="SSL", ssl_certfile=home / "key.pem", ssl_keyfile=home / "key.pem")

    with pytest.raises(SettingsError, match=r"certificates cannot be used .* check .*key\.pem, .*key\.pem"):
        security.options()


def test_a_certificate_that_is_not_there_is_named(home: Path):
    with pytest.raises(SettingsError, match=r"kafka_security: the certificates cannot be used .* check .*no\.pem"):
        Security(security_protocol="SSL", ssl_cafile=home / "no.pem").options()


# ── a running demo ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_running_demo_is_found_while_kafka_is_not_set(home: Path):
    path = write_demo(home, os.getpid(), kafka="127.0.0.1:19092", keys_dir=str(home / "demo-keys"))

    settings = load()

    assert settings.kafka == "127.0.0.1:19092"
    assert settings.keys_dir == home / "demo-keys"
    assert origin(settings)["kafka"] == f"demo {path}"


def test_a_demo_is_ignored_where_kafka_is_set(home: Path):
    write_demo(home, os.getpid(), kafka="127.0.0.1:19092", keys_dir="/nowhere")

    settings = load(kafka="broker:9092")

    assert (settings.kafka, settings.keys_dir) == ("broker:9092", home / "state" / "keys")


@pytest.mark.parametrize("pid", [DEAD_PID, 0, -1, 2**70])
def test_a_demo_that_is_gone_is_ignored(home: Path, pid: int):
    write_demo(home, pid, kafka="127.0.0.1:19092")

    assert load().kafka == "127.0.0.1:9092"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"pid": "x", "settings": {}}', '{"pid": 1, "settings": 7}', "\x00"])
def test_a_demo_file_that_cannot_be_read_is_named(home: Path, text: str):
    path = write_demo(home, 1)
    path.write_text(text)

    assert refused().startswith(f"{path}: cannot be used")


def test_a_demo_is_looked_for_in_the_state_directory_that_was_given(home: Path, monkeypatch: pytest.MonkeyPatch):
    path = write_demo(home, os.getpid(), kafka="127.0.0.1:19092")
    monkeypatch.setenv("HITL_STATE_DIR", str(path.parent))
    monkeypatch.setattr("hitl_stream.settings.STATE_DIR", home / "other")

    assert load().kafka == "127.0.0.1:19092"


# ── messages ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"partitions": 0}, "flag --partitions: partitions: found 0: Input should be greater than or equal to 1"),
        ({"kafka": "broker"}, "flag --kafka: kafka: 'broker' is not host:port; write a broker such as 127.0.0.1:9092"),
        ({"kafka": "a:1,b:70000"}, "flag --kafka: kafka: 'b:70000' is not host:port"),
        ({"partitons": 3}, "flags: 'partitons' is no setting; did you mean partitions?"),
        ({"origins": {}}, "flags: 'origins' is no setting"),
        ({"trust": "zz"}, "flag --trust: trust: found 'zz': String should match pattern"),
        ({"tenant": "a/b"}, "flag --tenant: tenant: 'a/b' holds a '/'"),
        ({"topics": {"actoins": "a"}}, "'actoins' is no topic of ours; did you mean actions?"),
        ({"topics": {"actions": "a b"}}, "flag --topics: topics.actions: 'a b' does not fit a topic's name"),
        ({"topics": {"actions": ""}}, "flag --topics: topics.actions: a topic's name cannot be empty"),
        ({"prefix": "x" * 250}, "does not fit a topic's name"),
        (
            {"adapter_options": {"fence": [1]}},
            "flag --adapter-options: adapter_options.fence: expected a text, a number, true or false",
        ),
        ({"sources": {"bids": {"tenant": "acme"}}}, "sources.bids.tenant: no such entry; remove it or mend its name"),
        ({"state_dir": 7}, "flag --state-dir: state_dir: found 7: Input is not a valid path"),
        ({"policy": ""}, "flag --policy: policy: cannot be empty; write a path, or leave the setting out"),
        ({"policy": "~nobody-here/x"}, "the home directory that '~nobody-here/x' begins with is not known"),
        ({"people": "~nobody-here/x"}, "the home directory that '~nobody-here/x' begins with is not known"),
        ({"store": ""}, "flag --store: store: cannot be empty; write the path"),
        ({"console_scrape": ["router-1:9464"]}, "is no URL of metrics; write http://HOST:9464/metrics"),
        ({"console_scrape": ["http://me:pass@h:1/metrics"]}, "http://h is no URL of metrics"),
        ({"console_scrape": ["http://h:1/metrics"] * 51}, "at most 50 items"),
        (
            {"kafka_security": {"security_protocol": "SASL_SSL"}},
            "also needs sasl_mechanism, sasl_plain_password, sasl_",
        ),
        (
            {"kafka_security": {"sasl_plain_username": "u"}},
            "sasl_plain_username would not be used with security_protocol",
        ),
        ({"kafka_security": {"ssl_cafile": "/x"}}, "ssl_cafile would not be used with security_protocol PLAINTEXT"),
        (
            {"kafka_security": {"security_protocol": "SSL", "ssl_certfile": "/x"}},
            "ssl_certfile and ssl_keyfile go together",
        ),
    ],
)
def test_a_wrong_value_names_its_source_its_key_and_what_to_do(flags: dict[str, Any], message: str):
    assert message in refused(**flags)


@pytest.mark.parametrize(
    "text", ["http://a:1/metrics, http://b:2/metrics", '["http://a:1/metrics", "http://b:2/metrics"]']
)
def test_several_of_something_are_named_with_commas_or_as_json(monkeypatch: pytest.MonkeyPatch, text: str):
    monkeypatch.setenv("HITL_CONSOLE_SCRAPE", text)
    monkeypatch.setenv("HITL_CONSOLE_HOSTS", "desk.example")

    assert load().console_scrape == ("http://a:1/metrics", "http://b:2/metrics")
    assert load().console_hosts == ("desk.example",)


def test_every_wrong_value_is_named_at_once(home: Path, monkeypatch: pytest.MonkeyPatch):
    (home / "hitl.toml").write_text("partitions = 0\n")
    monkeypatch.setenv("HITL_SLOT", "x")
    monkeypatch.setenv("HITL_STATE_DIR", "\x01" * 2)

    lines = refused(kafka="z").splitlines()

    assert [line.split(":")[0] for line in lines] == ["flag --kafka", "hitl.toml", "environment HITL_SLOT"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("partitions = = 3", "hitl.toml: not TOML: Invalid value (at line 1"),
        ("partitons = 3", "hitl.toml: 'partitons' is no setting; did you mean partitions?"),
        ("zzzzzz = 3", "hitl.toml: 'zzzzzz' is no setting; the settings are kafka, "),
        ("config = 'x'", "hitl.toml: 'config' is no setting"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(home: Path, text: str, message: str):
    (home / "hitl.toml").write_text(text)

    assert message in refused()


def test_a_file_that_hitl_config_names_must_exist(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HITL_CONFIG", "/nowhere/hitl.toml")

    assert refused() == (
        "environment HITL_CONFIG: /nowhere/hitl.toml cannot be read (No such file or directory); expected a TOML file"
    )


@pytest.mark.parametrize("text", ["[]", "tenants: acme", "7"])
def test_a_table_in_a_variable_must_be_a_json_object(monkeypatch: pytest.MonkeyPatch, text: str):
    monkeypatch.setenv("HITL_SOURCES", text)

    assert "environment HITL_SOURCES: found no JSON object" in refused()


def test_a_variable_and_its_file_cannot_both_be_set(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HITL_STORE", "x")
    monkeypatch.setenv("HITL_STORE_FILE", "/x")

    assert "both HITL_STORE and HITL_STORE_FILE are set; expected one of them" in refused()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "cannot be read (No such file"),
        (b"x" * (SECRET_BYTES_MAX + 1), "is longer than"),
        (b"\xff", "is not UTF-8"),
    ],
)
def test_a_secret_file_that_cannot_be_used_is_named(
    home: Path, monkeypatch: pytest.MonkeyPatch, data: bytes | None, message: str
):
    path = home / "secret"
    if data is not None:
        path.write_bytes(data)
    monkeypatch.setenv("HITL_STORE_FILE", str(path))

    assert f"environment HITL_STORE_FILE: {path} {message}" in refused()


# ── secrets ─────────────────────────────────────────────────────────────────────────────────────────────────────────

SASL = {"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN", "sasl_plain_username": "u"}


@pytest.mark.parametrize(
    "flags",
    [
        {"kafka_security": {**SASL, "sasl_plain_password": "hush"}},
        {"kafka_security": {"security_protocol": "SSL", "ssl_password": "hush"}},
        {"store": "postgres://u:hush@h/db", "people": "host=h user=u password=hush dbname=x"},
        {"people": "host=h password='hush hush'"},
        {"adapter_options": {"token": "hush", "client_secret": "hush", "dsn": "ads://u:hush@h"}},
    ],
)
def test_a_secret_is_not_in_what_is_shown(flags: dict[str, Any]):
    settings = load(**flags)

    assert "hush" not in f"{settings!r} {settings} {shown(settings)} {json.dumps(shown(settings))}"


@pytest.mark.parametrize(
    "flags",
    [
        {"kafka_security": {**SASL, "sasl_plain_password": ["hush"]}},
        {"kafka_security": {"security_protocol": "hm", "sasl_plain_password": "hush"}},
        {"kafka_security": {"security_protocol": "PLAINTEXT", "sasl_plain_password": "hush"}},
        {"kafka_security": {**SASL, "sasl_plain_pasword": "hush"}},
        {"kafka_security": "hush"},
        {"store": ["hush"]},
        {"people": b"hush\xff"},
        {"adapter_options": {"token": ["hush"]}},
        {"adapter_options": "hush"},
    ],
)
def test_a_secret_is_not_in_a_message(flags: dict[str, Any]):
    assert "hush" not in refused(**flags)


def test_what_is_shown_is_plain_data_and_keeps_what_is_no_secret():
    settings = load(store="postgres://u:hush@h/db", kafka_security={**SASL, "sasl_plain_password": "hush"})

    said = shown(settings)

    assert tuple(said) == NAMES
    assert said["store"] == "postgres://u:********@h/db"
    assert said["kafka_security"] == {**SASL, "sasl_plain_password": "********"}


def test_settings_cannot_be_changed_afterwards():
    with pytest.raises(ValueError, match="frozen"):
        load().partitions = 3


# ── check ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def ready(home: Path, **flags: Any) -> Settings:
    """Settings that pass every check."""
    keys = home / "state" / "keys"
    keys.mkdir(parents=True, mode=0o700, exist_ok=True)
    (keys / "r1.jwk").touch(mode=0o600)
    return load(**{"metrics_port": 0, "console_port": 0, **flags})


def problems(settings: Settings, facts: PolicyFacts | None = None) -> list[str]:
    return [str(problem) for problem in check(settings, facts)]


def test_a_machine_that_is_ready_has_no_problem(home: Path):
    assert problems(ready(home)) == []


def test_the_longest_admission_of_a_policy_decides():
    queues = {"triage": {"roles": ["trader"], "sla": "15m", "owner": "ana"}}
    classes = {"bid.adjust": {"max_age": "60s"}, "post.own": {}}
    policy = Policy.model_validate(
        {"policy": "p", "defaults": {"queue": "triage", "max_age": "15m"}, "queues": queues, "classes": classes}
    )

    assert facts_of(policy) == PolicyFacts(900_000, "post.own")


def test_a_small_window_is_told_in_small_units(home: Path):
    found = problems(ready(home, window_ids_max=1_000), PolicyFacts(86_400_000, "c"))

    assert found[0].endswith("1 k ids carry 0.012/s at 1 d (max_age of class c; about 195 kB of memory)")


def test_the_window_says_what_rate_it_carries(home: Path):
    found = problems(ready(home), PolicyFacts(900_000, "post.own"))

    assert found == [
        "note settings.window: window_ids_max: 1 M ids carry 1,111/s at 15 min "
        "(max_age of class post.own; about 195 MB of memory)"
    ]


def test_an_expected_rate_that_the_window_cannot_carry_is_an_error_with_the_way_out(home: Path):
    found = problems(ready(home, expected_rate=5_000), PolicyFacts(900_000, "bid.adjust"))

    assert found == [
        "error settings.window: window_ids_max: 1 M ids carry 1,111/s at 15 min (max_age of class bid.adjust; about "
        "195 MB of memory), but expected_rate is 5,000/s; at the limit partitions slow down. Raise window_ids_max to "
        "4500000 (878 MB if one process has every partition), or lower the class's max_age to 200 s"
    ]


@pytest.mark.parametrize(("rate", "severity"), [(1_000, "note"), (62_500, "note"), (62_501, "error")])
def test_the_window_is_full_exactly_where_rate_times_age_exceeds_it(home: Path, rate: float, severity: str):
    age_ms = 16_000 if rate > 1_000 else 900_000

    assert check(ready(home, expected_rate=rate), PolicyFacts(age_ms, "c"))[0].severity == severity


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o700, 0o660])
def test_a_key_file_that_others_may_read_or_run_is_named_with_its_mode(home: Path, mode: int):
    settings = ready(home)
    key = settings.keys_dir / "r1.jwk"
    key.chmod(mode)

    assert problems(settings) == [
        f"error settings.keys: keys_dir: {key} has mode {mode:04o}, expected 0600; run: chmod 600 {key}"
    ]


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_key_file_for_its_owner_alone_is_fine(home: Path, mode: int):
    settings = ready(home)
    (settings.keys_dir / "r1.jwk").chmod(mode)

    assert problems(settings) == []


def test_a_key_directory_that_is_missing_empty_or_open_to_others_is_named(home: Path):
    settings = ready(home)
    settings.keys_dir.chmod(0o777)
    assert "others may write to" in problems(settings)[0]

    settings.keys_dir.chmod(0o700)
    (settings.keys_dir / "r1.jwk").unlink()
    assert "is empty; it must hold this process's key files" in problems(settings)[0]

    settings.keys_dir.rmdir()
    assert "cannot be read (No such file or directory)" in problems(settings)[0]


def test_a_policy_that_cannot_be_read_is_named(home: Path):
    (home / "there.yaml").touch()

    assert problems(ready(home, policy=home / "there.yaml")) == []
    assert "no.yaml cannot be read (No such file or directory)" in problems(ready(home, policy=home / "no.yaml"))[0]
    assert "cannot be read (Is a directory)" in problems(ready(home, policy=home))[0]


def test_a_state_directory_under_a_file_is_refused(home: Path):
    (home / "file").touch()

    found = problems(ready(home, state_dir=home / "file" / "state", keys_dir=home / "state" / "keys"))

    assert found == [
        f"error settings.state_dir: state_dir: {home / 'file'} is not a directory; "
        "give this user a directory of its own"
    ]


def test_a_state_directory_that_is_not_there_yet_is_fine(home: Path):
    assert problems(ready(home, state_dir=home / "a" / "b", keys_dir=home / "state" / "keys")) == []


def test_a_port_that_is_taken_is_named(home: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = problems(ready(home, metrics_port=port))

    assert found == [
        f"error settings.ports: metrics_port: cannot listen on 127.0.0.1:{port} (Address already in use); "
        "is hitl up already? Else choose another"
    ]
    assert problems(ready(home, metrics_port=port)) == []


def test_two_servers_cannot_share_a_port(home: Path):
    assert "also the metrics_port" in problems(ready(home, metrics_port=9999, console_port=9999))[0]


def test_a_variable_that_names_no_setting_is_a_warning(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HITL_PARTITONS", "3")
    monkeypatch.setenv("HITL_CONFIG", "")

    assert problems(ready(home)) == [
        "warning settings.unknown: HITL_PARTITONS: HITL_PARTITONS is no setting; did you mean HITL_PARTITIONS?"
    ]
