"""Loading: which source wins, what is refused and how it is reported."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.config import PeerConfig
from peer.config.settings import env_name, settings_of
from peer.config.values import parse_paths, show_paths
from peer.errors import ConfigError

FABRIC = Path(__file__).with_name("fabric-3.1.yaml")


@pytest.fixture
def core_yaml(tmp_path: Path) -> Callable[[str], Path]:
    """Write a core.yaml and return its path."""

    def write(text: str) -> Path:
        path = tmp_path / "core.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def problems_of(
    path: Path | None = None,
    env: Mapping[str, str] | None = None,
    overrides: Mapping[str, str] | None = None,
) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        PeerConfig.load(path, env=env or {}, overrides=overrides)
    return caught.value.problems


def test_no_source_gives_the_embedded_default() -> None:
    config = PeerConfig.load(env={})
    assert config == PeerConfig()
    assert set(config.origins.values()) == {"default"}
    assert config.origins.keys() == {place.setting.key for place in settings_of(PeerConfig)}


def test_the_default_environment_is_that_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("CORE_", "FABRIC_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CORE_PEER_ID", "from-process")
    assert PeerConfig.load().peer.id == "from-process"


def test_defaults_survive_being_shown_and_read() -> None:
    for place in settings_of(PeerConfig):
        shown = place.setting.kind.show(place.setting.default)
        text = str(shown).lower() if isinstance(shown, bool) else str(shown)
        assert place.setting.kind.parse(text) == place.setting.default, place.setting.key


def test_each_source_wins_over_the_next(core_yaml: Callable[[str], Path]) -> None:
    path = core_yaml(
        "chaincode:\n  startuptimeout: 10s\n  executetimeout: 11s\n  stopTimeout: 12s\n"
    )
    config = PeerConfig.load(
        path,
        env={"CORE_CHAINCODE_EXECUTETIMEOUT": "21s", "CORE_CHAINCODE_STOPTIMEOUT": "22s"},
        overrides={"chaincode.stoptimeout": "32s"},
    )
    assert config.chaincode.startup_timeout_s == 10
    assert config.chaincode.execute_timeout_s == 21
    assert config.chaincode.stop_timeout_s == 32
    assert config.origins["chaincode.startuptimeout"] == "core.yaml:2"
    assert config.origins["chaincode.executetimeout"] == "CORE_CHAINCODE_EXECUTETIMEOUT"
    assert config.origins["chaincode.stopTimeout"] == "flag"
    assert config.origins["chaincode.mode"] == "default"


def test_every_setting_can_be_set_by_its_variable() -> None:
    samples: dict[str, str] = {"boolean": "true", "number": "7", "duration": "77s"}
    samples |= {
        "size in bytes": "7k",
        "host:port": "h:7",
        "log level": "error",
        "net or dev": "dev",
        "disabled or prometheus or statsd": "prometheus",
        "paths": "/x /y",
        "goleveldb or CouchDB": "CouchDB",
        "disabled or otlp": "otlp",
    }
    samples |= {"logging specification": "a=error", "text or json": "json", "path": "/x"}
    env = {p.setting.env: samples.get(p.setting.kind.name, "x7") for p in settings_of(PeerConfig)}
    config = PeerConfig.load(env=env)
    for section, attribute, setting in settings_of(PeerConfig):
        value = getattr(getattr(config, section), attribute)
        assert value == setting.kind.parse(env[setting.env])
        assert config.origins[setting.key] == setting.env


def test_an_empty_variable_and_an_empty_key_count_as_not_set(
    core_yaml: Callable[[str], Path],
) -> None:
    path = core_yaml("peer:\n  id:\n  gossip:\nchaincode: {mode: ~}\n")
    config = PeerConfig.load(path, env={"CORE_PEER_NETWORKID": ""})
    assert config == PeerConfig()
    assert config.origins["peer.id"] == "default"


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n"])
def test_an_empty_file_sets_nothing(core_yaml: Callable[[str], Path], text: str) -> None:
    assert PeerConfig.load(core_yaml(text), env={}) == PeerConfig()


def test_keys_are_found_without_regard_to_case(core_yaml: Callable[[str], Path]) -> None:
    path = core_yaml("PEER:\n  networkid: n\nchaincode:\n  STARTUPTIMEOUT: 9s\n")
    config = PeerConfig.load(path, env={})
    assert config.peer.network_id == "n"
    assert config.chaincode.startup_timeout_s == 9
    assert config.origins["peer.networkId"] == "core.yaml:2"


def test_text_is_taken_as_written(core_yaml: Callable[[str], Path]) -> None:
    config = PeerConfig.load(core_yaml("peer: {id: 007, networkId: 1e3}\n"), env={})
    assert (config.peer.id, config.peer.network_id) == ("007", "1e3")


def test_dotted_keys_and_anchors(core_yaml: Callable[[str], Path]) -> None:
    path = core_yaml(
        "peer.id: dotted\n"
        "operations:\n"
        "  tls: &off {enabled: false}\n"
        "peer:\n"
        "  tls:\n"
        "    <<: *off\n"
        "    enabled: true\n"
    )
    config = PeerConfig.load(path, env={})
    assert config.peer.id == "dotted"
    assert config.peer.tls_enabled


def test_a_fabric_file_loads_and_what_has_no_effect_is_kept_apart() -> None:
    config = PeerConfig.load(FABRIC, env={})
    assert not config.warnings
    assert config.peer.file_system_path == "/var/hyperledger/production"
    assert config.vm.runtime == "process"
    assert config.vm.endpoint == "unix:///var/run/docker.sock"
    assert config.vm.options["docker"] == {
        "tls": {
            "enabled": False,
            "ca": {"file": "docker/ca.crt"},
            "cert": {"file": "docker/tls.crt"},
            "key": {"file": "docker/tls.key"},
        },
        "attachStdout": False,
        "hostConfig": {
            "NetworkMode": "host",
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "50m", "max-file": "5"}},
            "Memory": 2147483648,
        },
    }
    assert config.unused["peer.gossip.state.maxRetries"] == 3
    assert config.unused["chaincode.system"]["_lifecycle"] == "enable"
    assert config.origins["peer.gossip.bootstrap"] == "fabric-3.1.yaml:16"
    assert not config.unused.keys() & {place.setting.key for place in settings_of(PeerConfig)}


def test_fabric_variables_of_a_docker_compose_file_load() -> None:
    config = PeerConfig.load(
        env={
            "FABRIC_LOGGING_SPEC": "INFO",
            "CORE_VM_ENDPOINT": "unix:///host/var/run/docker.sock",
            "CORE_VM_DOCKER_HOSTCONFIG_NETWORKMODE": "fabric_test",
            "CORE_VM_DOCKER_HOSTCONFIG_MEMORY": "1024",
            "CORE_PEER_GOSSIP_USELEADERELECTION": "true",
            "CORE_PEER_TLS_ROOTCERT_FILE": "/tls/ca.crt",
            "CORE_PEER_PROFILE_ENABLED": "false",
            "CORE_CHAINCODE_ID_NAME": "mycc:1.0",
            "CORE_TLS_CLIENT_KEY_PATH": "/etc/hyperledger/fabric/client.key",
            "CORE_CHAINCODE_BUILDLEVEL": "2.5.0",
            "COREPACK_HOME": "/elsewhere",
            "PATH": "/bin",
        }
    )
    assert config.logging.spec == "INFO"
    assert config.vm.options == {
        "endpoint": "unix:///host/var/run/docker.sock",
        "docker": {"hostConfig": {"NetworkMode": "fabric_test", "Memory": 1024}},
    }
    assert config.client.root_certificate == "/tls/ca.crt"
    assert config.origins["peer.tls.rootcert.file"] == "CORE_PEER_TLS_ROOTCERT_FILE"
    assert "CORE_TLS_CLIENT_KEY_PATH" not in config.origins.values()


def test_options_of_other_runtimes_reach_the_backend_as_written(
    core_yaml: Callable[[str], Path],
) -> None:
    path = core_yaml(
        "vm:\n"
        "  runtime: nomad\n"
        "  nomad:\n"
        "    jobName: cc\n"
        "    limits: {cpu: 2}\n"
        "  process: {niceness: 5}\n"
    )
    config = PeerConfig.load(
        path, env={"CORE_VM_PROCESS_NICENESS": "7", "CORE_VM_NOMAD_TOKEN": "t"}
    )
    assert config.vm.options == {
        "runtime": "nomad",
        "nomad": {"jobName": "cc", "limits": {"cpu": 2}, "token": "t"},
        "process": {"niceness": 7},
    }
    assert config.origins["vm.nomad.jobName"] == "core.yaml:4"


def test_all_problems_are_reported_at_once(core_yaml: Callable[[str], Path]) -> None:
    path = core_yaml(
        "peer:\n"
        "  idd: x\n"
        "  address: nowhere\n"
        "chaincode:\n"
        "  startuptimout: 5s\n"
        "  mode: prod\n"
        "  logging: loud\n"
        "  logging.level: [info]\n"
        "qqq: 1\n"
    )
    unknown = "no setting has this variable"
    expected = "expected a duration such as 300s, 1m30s or 100ms"
    assert problems_of(
        path,
        env={"CORE_PEER_TLS_ENABLD": "true", "CORE_CHAINCODE_EXECUTETIMEOUT": "soon"},
        overrides={"vm.runtme": "process"},
    ) == (
        f"{path}:2: peer.idd: unknown key; did you mean peer.id?",
        f"{path}:5: chaincode.startuptimout: unknown key; did you mean chaincode.startuptimeout?",
        f"{path}:7: chaincode.logging: expected keys and values",
        f"{path}:8: chaincode.logging.level: expected a single value",
        f"{path}:9: qqq: unknown key",
        f"environment: CORE_PEER_TLS_ENABLD: {unknown}; did you mean CORE_PEER_TLS_ENABLED?",
        "flag: vm.runtme: unknown key; did you mean vm.runtime?",
        f"{path}:3: peer.address: expected host:port, got 'nowhere'",
        f"{path}:6: chaincode.mode: expected one of net, dev, got 'prod'",
        f"environment: CORE_CHAINCODE_EXECUTETIMEOUT: {expected}, got 'soon'",
    )


def test_the_error_shows_every_problem() -> None:
    with pytest.raises(ConfigError) as caught:
        PeerConfig.load(env={"CORE_A": "1", "CORE_B": "2"})
    assert str(caught.value).splitlines() == list(caught.value.problems)
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize(
    "env", [{"CORE_VM_DOKCER_TLS_ENABLED": "1"}, {"CORE_VM_DOCKER_TLS_ENABLD": "1"}]
)
def test_a_mistyped_runtime_variable_is_no_runtime(env: dict[str, str]) -> None:
    (problem,) = problems_of(env=env)
    assert problem.endswith("did you mean CORE_VM_DOCKER_TLS_ENABLED?")


def test_a_mistyped_runtime_section_is_no_runtime(core_yaml: Callable[[str], Path]) -> None:
    path = core_yaml("vm:\n  dokcer:\n    attachStdout: true\n  docker: {attachStdot: true}\n")
    assert problems_of(path) == (
        f"{path}:4: vm.docker.attachStdot: unknown key; did you mean vm.docker.attachStdout?",
        f"{path}:3: vm.dokcer.attachStdout: unknown key; did you mean vm.docker.attachStdout?",
    )


def test_a_key_given_twice_is_refused(core_yaml: Callable[[str], Path]) -> None:
    path = core_yaml("peer:\n  id: a\n  ID: b\npeer:\n  id: c\n")
    assert problems_of(path) == (
        f"{path}:4: peer: already given in line 1",
        f"{path}:3: peer.id: already given in line 2",
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("peer: [", ":1: expected the node content"),
        ("peer:\n  id: a\n bad\n", ":3: "),
        ("- a\n", ":1: the file: expected keys and values"),
        ("just text\n", ":1: the file: expected keys and values"),
        ("a: 1\n---\nb: 2\n", ":2: "),
        ("? [a, b]\n: c\n", ":1: the file: a key must be a word"),
        ("vm: {process: {x: !!python/name:os.system }}\n", ":1: could not determine a constructor"),
        ("vm: {process: {x: 2020-99-99}}\n", ": month must be in 1..12"),
        ("a: \x00\n", ": "),
        ("[" * 5000, ": nested too deeply"),
    ],
)
def test_a_damaged_file_is_a_configuration_error(
    core_yaml: Callable[[str], Path], text: str, problem: str
) -> None:
    path = core_yaml(text)
    first = problems_of(path)[0]
    assert first.startswith(f"{path}{problem}")


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "core.yaml"
    path.write_bytes(b"peer: {id: \xff}\n")
    (problem,) = problems_of(path)
    assert problem.startswith(f"{path}: 'utf-8' codec can't decode")


@given(st.text(max_size=60) | st.binary(max_size=60))
def test_any_file_loads_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, content: str | bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    path.write_bytes(content.encode("utf-8", "replace") if isinstance(content, str) else content)
    with suppress(ConfigError):
        PeerConfig.load(path, env={})


def test_where_the_file_is_looked_for(core_yaml: Callable[[str], Path], tmp_path: Path) -> None:
    path = core_yaml("peer: {id: here}\n")
    for load in (
        lambda: PeerConfig.load(path, env={}),
        lambda: PeerConfig.load(str(tmp_path), env={}),
        lambda: PeerConfig.load(env={"FABRIC_CFG_PATH": str(tmp_path)}),
    ):
        assert load().peer.id == "here"
    (tmp_path / "empty").mkdir()
    other = {"FABRIC_CFG_PATH": str(tmp_path / "empty")}
    assert PeerConfig.load(path, env=other).peer.id == "here"
    assert problems_of(env=other) == (f"{tmp_path}/empty/core.yaml: No such file or directory",)
    absent = tmp_path / "absent.yaml"
    assert problems_of(absent) == (f"{absent}: No such file or directory",)
    gone = {"FABRIC_CFG_PATH": str(tmp_path / "gone")}
    assert problems_of(env=gone) == (f"{tmp_path}/gone/core.yaml: No such file or directory",)


def test_a_relative_path_starts_at_the_file(core_yaml: Callable[[str], Path]) -> None:
    path = core_yaml("peer: {fileSystemPath: data}\n")
    assert PeerConfig.load(path, env={}).peer.file_system_path == str(path.parent / "data")
    flag = PeerConfig.load(path, env={}, overrides={"peer.fileSystemPath": "here"})
    assert flag.peer.file_system_path == "here"
    assert PeerConfig.load(env={"CORE_PEER_FILESYSTEMPATH": "d"}).peer.file_system_path == "d"
    emptied = core_yaml("peer: {fileSystemPath: ''}\n")
    assert PeerConfig.load(emptied, env={}).peer.file_system_path == ""


def test_paths_are_a_list_of_the_file_or_words_of_a_variable(
    core_yaml: Callable[[str], Path],
) -> None:
    key = "operations.tls.clientRootCAs.files"
    path = core_yaml("operations: {tls: {clientRootCAs: {files: [a b.pem, /c.pem]}}}\n")
    here = str(path.parent)
    loaded = PeerConfig.load(path, env={})
    assert loaded.operations.tls_client_root_cas == (f"{here}/a b.pem", "/c.pem")
    assert loaded.origins[key] == "core.yaml:1"
    for env, flags in (({env_name(key): "a /c"}, {}), ({}, {key: "a /c"})):
        given = PeerConfig.load(env=env, overrides=flags)
        assert given.operations.tls_client_root_cas == ("a", "/c")
    single = core_yaml("operations: {tls: {clientRootCAs: {files: /c.pem}}}\n")
    assert PeerConfig.load(single, env={}).operations.tls_client_root_cas == ("/c.pem",)
    for wrong in ("[[a]]", "{a: b}", "[{a: b}]"):
        (problem,) = problems_of(core_yaml(f"operations.tls.clientRootCAs.files: {wrong}\n"))
        assert problem.endswith(f"{key}: expected a single value")


@pytest.mark.parametrize("paths", [(), ("a",), ("a", "/b"), ("a b",), ("a b", "c"), ("a\tb",)])
def test_paths_survive_being_shown(paths: tuple[str, ...]) -> None:
    assert parse_paths(show_paths(paths)) == paths


@pytest.mark.parametrize(
    ("key", "given", "attribute", "becomes"),
    [
        ("chaincode.startuptimeout", "4999ms", "startup_timeout_s", 5.0),
        ("chaincode.startuptimeout", "-1s", "startup_timeout_s", 5.0),
        ("chaincode.executetimeout", "999ms", "execute_timeout_s", 30.0),
        ("chaincode.runtimeParams.maxSizeWriteBatch", "0", "max_size_write_batch", 1000),
        (
            "chaincode.runtimeParams.maxSizeGetMultipleKeys",
            "-5",
            "max_size_get_multiple_keys",
            1000,
        ),
    ],
)
def test_values_that_fabric_replaces(key: str, given: str, attribute: str, becomes: float) -> None:
    config = PeerConfig.load(env={env_name(key): given})
    assert getattr(config.chaincode, attribute) == becomes
    (warning,) = config.warnings
    assert env_name(key) in warning
    assert given in warning


@pytest.mark.parametrize(
    ("key", "given", "attribute", "value"),
    [
        ("chaincode.startuptimeout", "5s", "startup_timeout_s", 5.0),
        ("chaincode.executetimeout", "1s", "execute_timeout_s", 1.0),
        ("chaincode.runtimeParams.maxSizeWriteBatch", "1", "max_size_write_batch", 1),
    ],
)
def test_the_least_values_stay(key: str, given: str, attribute: str, value: float) -> None:
    config = PeerConfig.load(overrides={key: given}, env={})
    assert getattr(config.chaincode, attribute) == value
    assert not config.warnings


@pytest.mark.parametrize(
    ("key", "attribute", "becomes"),
    [
        ("peer.keepalive.interval", "keepalive_interval_s", 1.0),
        ("peer.keepalive.timeout", "keepalive_timeout_s", 20.0),
    ],
)
def test_no_ping_is_endless_or_without_time_for_an_answer(
    key: str, attribute: str, becomes: float
) -> None:
    config = PeerConfig.load(overrides={key: "0s"}, env={})
    assert getattr(config.peer, attribute) == becomes
    assert len(config.warnings) == 1


def test_a_value_below_the_least_is_refused_where_fabric_replaces_none() -> None:
    assert problems_of(env={"CORE_LEDGER_STATE_TOTALQUERYLIMIT": "0"}) == (
        "environment: CORE_LEDGER_STATE_TOTALQUERYLIMIT: 0 is below the least value 1",
    )
    assert problems_of(overrides={"chaincode.stopTimeout": "-1s"}) == (
        "flag: chaincode.stopTimeout: -1s is below the least value 0s",
    )


def test_a_runtime_option_that_is_no_yaml_is_refused() -> None:
    assert problems_of(env={"CORE_VM_DOCKER_HOSTCONFIG_DNS": "[8.8.8.8"}) == (
        "environment: CORE_VM_DOCKER_HOSTCONFIG_DNS: not a YAML value, got '[8.8.8.8'",
    )


def test_limits_of_the_reader_do_not_bind_a_test() -> None:
    config = PeerConfig()
    quick = replace(config, chaincode=replace(config.chaincode, startup_timeout_s=0.01))
    assert quick.chaincode.startup_timeout_s == 0.01
    assert quick.origins == config.origins
    with pytest.raises(FrozenInstanceError):
        config.chaincode.mode = "dev"  # type: ignore[misc]  # that it fails is the point
