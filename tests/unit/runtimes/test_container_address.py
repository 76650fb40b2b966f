"""Where the engine is looked for."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from runtimes.api import OptionRejected, RuntimeUnavailable
from runtimes.containers.address import EngineAddress, EngineTls, find_engine, parse
from runtimes.containers.runtime import _machine


def find(
    env: dict[str, str],
    *,
    endpoint: str = "",
    tls: EngineTls | None = None,
    has_contexts: bool = True,
    sockets: tuple[str, ...] = ("/no/such.sock", "~run/engine.sock"),
) -> EngineAddress:
    return find_engine(
        endpoint=endpoint,
        tls=tls,
        env=env,
        variable="DOCKER_HOST",
        has_contexts=has_contexts,
        sockets=sockets,
    )


def context(home: Path, name: str, url: str) -> Path:
    """Make a context of Docker's command line and return where its TLS files go."""
    directory = hashlib.sha256(name.encode()).hexdigest()
    meta = home / ".docker/contexts/meta" / directory / "meta.json"
    meta.parent.mkdir(parents=True)
    meta.write_text(json.dumps({"Name": name, "Endpoints": {"docker": {"Host": url}}}))
    tls = home / ".docker/contexts/tls" / directory / "docker"
    tls.mkdir(parents=True)
    return tls


def test_each_place_comes_before_the_next(tmp_path: Path) -> None:
    (tmp_path / "engine.sock").touch()
    env = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    assert find(env) == EngineAddress(socket=f"{tmp_path}/engine.sock")
    context(tmp_path, "work", "unix:///context.sock")
    context(tmp_path, "other", "tcp://engine:2375")
    (tmp_path / ".docker/config.json").write_text('{"currentContext": "work"}')
    assert find(env) == EngineAddress(socket="/context.sock")
    assert find(env, has_contexts=False) == EngineAddress(socket=f"{tmp_path}/engine.sock")
    env["DOCKER_CONTEXT"] = "other"
    assert find(env) == EngineAddress(host="engine", port=2375)
    env["DOCKER_HOST"] = "unix:///variable.sock"
    assert find(env) == EngineAddress(socket="/variable.sock")
    assert find(env, endpoint="unix:///here.sock") == EngineAddress(socket="/here.sock")


@pytest.mark.parametrize("current", [{}, {"currentContext": ""}, {"currentContext": "default"}])
def test_the_default_context_is_none(tmp_path: Path, current: dict[str, str]) -> None:
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker/config.json").write_text(json.dumps(current))
    found = find({"HOME": str(tmp_path)})
    assert found == EngineAddress(socket="/no/such.sock")
    assert "the usual place" in str(found)


def test_a_context_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path), "DOCKER_CONTEXT": "gone"}
    with pytest.raises(OptionRejected, match=r"meta\.json cannot be read"):
        find(env)
    context(tmp_path, "gone", "")
    with pytest.raises(OptionRejected, match="'' is neither"):
        find(env)
    meta = next((tmp_path / ".docker/contexts/meta").glob("*/meta.json"))
    meta.write_text("[]")
    with pytest.raises(OptionRejected, match="names no host"):
        find(env)


def test_tls_comes_from_the_configuration_the_variable_or_the_context(tmp_path: Path) -> None:
    configured = EngineTls("ca", "cert", "key")
    env = {"HOME": str(tmp_path), "DOCKER_HOST": "tcp://engine:2376"}
    assert find(env).tls is None
    assert find(env, tls=configured).tls == configured
    env["DOCKER_TLS_VERIFY"] = "1"
    assert find(env).tls is None
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker/ca.pem").touch()
    assert find(env).tls == EngineTls(f"{tmp_path}/.docker/ca.pem")
    assert find(env, endpoint="tcp://other:1").tls is None
    tls = context(tmp_path, "work", "tcp://engine:2376")
    (tls / "ca.pem").touch()
    assert find({"HOME": str(tmp_path), "DOCKER_CONTEXT": "work"}).tls == EngineTls(
        str(tls / "ca.pem")
    )


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("unix:///x.sock", True),
        ("tcp://127.0.0.1:2375", True),
        ("tcp://localhost:2375", True),
        ("https://[::1]:2376", True),
        ("tcp://10.0.0.1:2375", False),
        ("tcp://engine:2375", False),
    ],
)
def test_what_is_local(url: str, local: bool) -> None:
    assert parse(url, "test").is_local is local


@pytest.mark.parametrize("url", ["ssh://host", "unix://", "tcp://host", "tcp://host:x", "/x.sock"])
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(OptionRejected, match=r"vm\.endpoint: .* is neither unix"):
        parse(url, "vm.endpoint")


def test_tls_files_that_cannot_be_read(tmp_path: Path) -> None:
    address = EngineAddress(host="engine", port=1, tls=EngineTls(str(tmp_path / "ca.pem")))
    with pytest.raises(OptionRejected, match="TLS files of the engine at tcp://engine:1"):
        address.tls_context()
    assert EngineAddress(host="engine", port=1).tls_context() is None
    assert EngineAddress(host="engine", port=1, tls=EngineTls()).tls_context() is not None


async def test_where_the_containers_of_an_engine_hide() -> None:
    assert await _machine(EngineAddress(socket="/engine.sock")) == frozenset()
    assert await _machine(EngineAddress(host="localhost", port=1)) == frozenset()
    assert await _machine(EngineAddress(host="192.0.2.7", port=1)) == {"192.0.2.7"}
    with pytest.raises(RuntimeUnavailable, match=r"tcp://no\.such\.invalid:1"):
        await _machine(EngineAddress(host="no.such.invalid", port=1))
