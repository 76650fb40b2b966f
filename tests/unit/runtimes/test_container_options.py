"""The ``vm.docker`` and ``vm.podman`` parts of the configuration."""

from __future__ import annotations

import pytest

from runtimes.api import OptionRejected
from runtimes.containers.address import EngineTls
from runtimes.containers.options import HARDENED, ContainerOptions


@pytest.mark.parametrize("vm", [{}, {"docker": None}, {"docker": {}}, {"process": {"x": 1}}])
def test_without_options_the_hardened_defaults_hold(vm: dict[str, object]) -> None:
    options = ContainerOptions.read(vm, "docker")
    assert options == ContainerOptions()
    assert options.host == HARDENED
    assert "MemorySwappiness" not in options.host


def test_every_key_of_fabric_and_ours_is_read() -> None:
    host = {
        "NetworkMode": "host",
        "CapAdd": ["NET_ADMIN"],
        "CapDrop": "CHOWN, KILL",
        "Dns": ["10.0.0.1"],
        "DnsSearch": ["example.com"],
        "ExtraHosts": ["a:10.0.0.1"],
        "IpcMode": "private",
        "PidMode": "host",
        "UTSMode": "host",
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "50m", "max-file": 5}},
        "ReadonlyRootfs": False,
        "SecurityOpt": [],
        "CgroupParent": "/peer",
        "Memory": 2147483648,
        "MemorySwap": -1,
        "MemorySwappiness": 0,
        "OomKillDisable": "true",
        "CpuShares": 10,
        "CpuQuota": "-1",
        "CpuPeriod": 100,
        "BlkioWeight": 500,
        "CpusetCPUs": "0-1",
        "CpusetMEMs": "0",
        "PidsLimit": -1,
        "Tmpfs": {"/tmp": None},
        "Ulimits": ["nofile=10:20", "nproc=5"],
        "User": 1000,
        "Runtime": "crun",
        "Labels": {"a": "b"},
    }
    options = ContainerOptions.read(
        {"docker": {"attachStdout": True, "hostconfig": host}}, "docker"
    )
    assert options.network == "host"
    assert options.user == "1000"
    assert options.labels == {"a": "b"}
    assert options.host == {
        "CapAdd": ["NET_ADMIN"],
        "CapDrop": ["CHOWN", "KILL"],
        "Dns": ["10.0.0.1"],
        "DnsSearch": ["example.com"],
        "ExtraHosts": ["a:10.0.0.1"],
        "IpcMode": "private",
        "PidMode": "host",
        "UTSMode": "host",
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "50m", "max-file": "5"}},
        "ReadonlyRootfs": False,
        "SecurityOpt": [],
        "CgroupParent": "/peer",
        "Memory": 2147483648,
        "MemorySwap": -1,
        "MemorySwappiness": 0,
        "OomKillDisable": True,
        "CpuShares": 10,
        "CpuQuota": -1,
        "CpuPeriod": 100,
        "BlkioWeight": 500,
        "CpusetCpus": "0-1",
        "CpusetMems": "0",
        "PidsLimit": -1,
        "Tmpfs": {"/tmp": ""},
        "Ulimits": [
            {"Name": "nofile", "Soft": 10, "Hard": 20},
            {"Name": "nproc", "Soft": 5, "Hard": 5},
        ],
        "Runtime": "crun",
    }


@pytest.mark.parametrize("off", [False, "off", "false"])
def test_hardening_off_leaves_what_is_configured(off: object) -> None:
    vm = {"docker": {"hardening": off, "hostConfig": {"Memory": 5}}}
    options = ContainerOptions.read(vm, "docker")
    assert not options.hardened
    assert options.host == {"Memory": 5}


def test_the_section_of_podman_stands_above_that_of_docker() -> None:
    vm = {
        "docker": {"stopGrace": "1s", "hostConfig": {"Memory": 1, "CpuShares": 2}},
        "podman": {"hostConfig": {"memory": 3}},
    }
    options = ContainerOptions.read(vm, "podman")
    assert (options.host["Memory"], options.host["CpuShares"]) == (3, 2)
    assert options.stop_grace_s == 1.0
    assert ContainerOptions.read(vm, "docker").host["Memory"] == 1


def test_tls_counts_when_it_is_enabled() -> None:
    files = {"ca": {"file": "ca.pem"}, "cert": {"file": "cert.pem"}, "key": {"file": "key.pem"}}
    on, off = ({"docker": {"tls": {"enabled": enabled, **files}}} for enabled in (True, False))
    assert ContainerOptions.read(on, "docker").tls == EngineTls("ca.pem", "cert.pem", "key.pem")
    assert ContainerOptions.read(off, "docker").tls is None


@pytest.mark.parametrize(
    ("tree", "problem"),
    [
        ({"hardning": True}, "vm.docker.hardning is unknown; did you mean hardening"),
        ({"hostConfig": {"Memroy": 1}}, "vm.docker.hostConfig.Memroy is unknown; did you mean"),
        ({"zzz": 1}, "vm.docker.zzz is unknown$"),
        ({"hardening": "maybe"}, "'maybe' is neither true nor false"),
        ({"stopGrace": "soon"}, "'soon' is not a duration"),
        ({"hostConfig": {"Memory": "2g"}}, "'2g' is not a whole number from 0"),
        ({"hostConfig": {"Memory": -1}}, "-1 is not a whole number from 0"),
        ({"hostConfig": {"MemorySwappiness": 101}}, "101 is above 100"),
        ({"hostConfig": {"CapDrop": 5}}, "5 is not a list of texts"),
        ({"hostConfig": {"IpcMode": ["x"]}}, r"\['x'\] is not a text"),
        ({"hostConfig": {"IpcMode": True}}, "True is not a text"),
        ({"hostConfig": {"Labels": "a=b"}}, "'a=b' is not a mapping"),
        ({"hostConfig": {"LogConfig": "none"}}, "'none' is not a mapping"),
        ({"hostConfig": {"LogConfig": {"Typ": "x"}}}, "only Type and Config are known"),
        ({"hostConfig": {"Ulimits": ["nofile"]}}, "'nofile' is not name=soft"),
        ("x", "vm.docker is unknown"),
    ],
)
def test_mistakes_are_named(tree: object, problem: str) -> None:
    with pytest.raises(OptionRejected, match=problem):
        ContainerOptions.read({"docker": tree}, "docker")


def test_all_mistakes_are_told_at_once() -> None:
    vm = {"docker": {"a": 1, "hostConfig": {"Memory": "x"}}}
    with pytest.raises(OptionRejected) as caught:
        ContainerOptions.read(vm, "docker")
    assert len(caught.value.problems) == 2
