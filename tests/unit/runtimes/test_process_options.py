"""The ``vm.process`` part of the configuration."""

from __future__ import annotations

import pytest

from runtimes.api import OptionRejected
from runtimes.process.options import ProcessOptions


@pytest.mark.parametrize("vm", [{}, {"process": None}, {"process": {}}, {"docker": {"x": 1}}])
def test_without_options_the_defaults_hold(vm: dict[str, object]) -> None:
    options = ProcessOptions.read(vm)
    assert options == ProcessOptions()
    assert options.limits == {"core": 0, "nofile": 65_536}


def test_every_option_is_read() -> None:
    options = ProcessOptions.read(
        {
            "process": {
                "stopGrace": "500ms",
                "OPENFILES": "100",
                "memory": 1 << 30,
                "processes": 50,
                "propagateEnvironment": "JAVA_HOME, GOPATH",
            }
        }
    )
    assert options == ProcessOptions(
        stop_grace_s=0.5,
        open_files=100,
        memory_bytes=1 << 30,
        processes=50,
        propagate_environment=("JAVA_HOME", "GOPATH"),
    )
    assert options.limits == {"core": 0, "nofile": 100, "as": 1 << 30, "nproc": 50}


@pytest.mark.parametrize(("text", "seconds"), [("2s", 2.0), (3, 3.0), (0.25, 0.25), ("1m", 60.0)])
def test_durations(text: object, seconds: float) -> None:
    assert ProcessOptions.read({"process": {"stopGrace": text}}).stop_grace_s == seconds


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("stopGrace", "soon", "vm.process.stopGrace: 'soon' is not a duration"),
        ("stopGrace", -1, "is not a duration"),
        ("openFiles", 10, "vm.process.openFiles: 10 is below 64"),
        ("memory", "1GB", "vm.process.memory: '1GB' is not a whole number"),
        ("processes", True, "'?True'? is not a whole number"),
        ("propagateEnvironment", 5, "5 is not a list of names"),
        ("propagateEnvironment", ["A", 5], "is not a list of names"),
        ("openFile", 1, "vm.process.openFile is unknown; did you mean openFiles"),
        ("zzz", 1, "vm.process.zzz is unknown$"),
    ],
)
def test_mistakes_are_named(key: str, value: object, problem: str) -> None:
    with pytest.raises(OptionRejected, match=problem):
        ProcessOptions.read({"process": {key: value}})


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(OptionRejected) as caught:
        ProcessOptions.read({"process": {"a": 1, "memory": "x"}})
    assert len(caught.value.problems) == 2
    assert str(caught.value) == "\n".join(caught.value.problems)


def test_the_part_must_be_a_mapping() -> None:
    with pytest.raises(OptionRejected, match="must be a mapping"):
        ProcessOptions.read({"process": 5})
