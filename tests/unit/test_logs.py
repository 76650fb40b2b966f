"""Log lines: levels by Fabric's specification, ids, and what untrusted text cannot do."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from contextlib import suppress
from contextvars import Context, copy_context

import pytest
import trio
import trio.testing

from peer import logs


@pytest.fixture(autouse=True)
def _leave_logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    logs.configure("info", stream=io.StringIO())  # resets the levels of a test's specification
    for handler in [handler for handler in root.handlers if handler not in handlers]:
        root.removeHandler(handler)
    for name in logs.OURS:
        logging.getLogger(name).setLevel(logging.NOTSET)
    root.setLevel(level)


def configured(spec: str = "info", format: str = "text") -> io.StringIO:  # noqa: A002
    stream = io.StringIO()
    logs.configure(spec, format, stream=stream)
    return stream


def messages(stream: io.StringIO) -> list[str]:
    return re.findall(r": (\w+)$", stream.getvalue(), re.MULTILINE)


def test_a_line_has_time_level_logger_and_ids() -> None:
    stream = configured()
    with logs.bind(ccid="asset:9f2", channel="ch1", tx="3fa9c1d2aabbccdd"):
        logging.getLogger("peer.chaincode").info("launch ready in %.2f s", 1.84)
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} INFO    peer\.chaincode: "
        r"ccid=asset:9f2 channel=ch1 tx=3fa9c1d2 launch ready in 1\.84 s\n",
        stream.getvalue(),
    )


@pytest.mark.parametrize("format", ["text", "json"])
def test_what_others_send_does_not_fill_the_log(format: str) -> None:  # noqa: A002
    stream = configured(format=format)
    with logs.bind(channel="c" * 1_000_000):
        logging.getLogger("peer").warning("refused: %s", "x" * 1_000_000)
    assert len(stream.getvalue()) < 20_000
    assert "x… (1000009 characters)" in stream.getvalue()
    assert "c… (1000000 characters)" in stream.getvalue()


def test_json_has_the_whole_ids_and_one_line_per_record() -> None:
    stream = configured(format="json")
    with logs.bind(tx="3fa9c1d2aabbccdd"):
        logging.getLogger("peer").warning("a\nb")
    record = json.loads(stream.getvalue())
    assert stream.getvalue().count("\n") == 1
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record.pop("ts"))
    assert record == {"level": "warning", "name": "peer", "msg": "a\nb", "tx": "3fa9c1d2aabbccdd"}


def test_ids_nest_and_end_with_their_block() -> None:
    with logs.bind(ccid="a"):
        with logs.bind(ccid="b", tx="t"):
            assert logs.bound() == {"ccid": "b", "tx": "t"}
        with suppress(ZeroDivisionError), logs.bind(channel="c"):
            assert logs.bound() == {"ccid": "a", "channel": "c"}
            raise ZeroDivisionError
        assert logs.bound() == {"ccid": "a"}
    assert logs.bound() == {}


async def test_tasks_inherit_ids_and_keep_their_own() -> None:
    seen: dict[str, dict[str, str]] = {}

    async def transaction(tx: str) -> None:
        with logs.bind(tx=tx):
            await trio.testing.wait_all_tasks_blocked()
            seen[tx] = dict(logs.bound())

    with logs.bind(ccid="cc"):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(transaction, "t1")
            nursery.start_soon(transaction, "t2")
    assert seen == {"t1": {"ccid": "cc", "tx": "t1"}, "t2": {"ccid": "cc", "tx": "t2"}}


def test_what_tasks_inherit_of_tasks_does_not_grow() -> None:
    def spawned() -> Context:
        with logs.bind(tx="t"):
            return copy_context()

    once = many = copy_context().run(spawned)
    for _ in range(10):
        many = many.run(spawned)
    assert dict(many) == dict(once)


@pytest.mark.parametrize("format", ["text", "json"])
def test_exceptions_are_logged_with_their_trace(format: str) -> None:  # noqa: A002
    stream = configured(format=format)
    try:
        raise ValueError("boom")
    except ValueError:
        logging.getLogger("peer").exception("failed")
    assert "Traceback" in stream.getvalue()
    assert "ValueError: boom" in stream.getvalue()


def test_text_can_neither_forge_a_record_nor_steer_a_terminal() -> None:
    stream = configured()
    forged = "2026-01-01 00:00:00.000 INFO    peer: all is well"
    chaincode = logs.chaincode_logger("dev-jdoe-cc-1.0")
    with logs.bind(ccid=f"x\n{forged}"):
        chaincode.info(
            f"\x1b[31mred\x1b[0m \x1b]0;title\x07\t\r{forged}\n{forged}\u2028{forged}\x85"
        )
    output = stream.getvalue()
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028]", output)
    assert "red \\x1b]0;title\\x07\t\\x0d" in output
    first, *others = output.splitlines()
    assert " peer.chaincode.dev-jdoe-cc-1.0: " in first
    assert all(line.startswith("    ") for line in others)
    assert len(others) == 2


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("info", ["peer", "child", "runtimes", "library_warning"]),
        ("", ["peer", "child", "runtimes", "library_warning"]),
        ("ERROR", []),
        ("debug", ["peer", "child", "debug", "runtimes", "library_warning"]),
        ("error:peer=info", ["peer", "child"]),
        ("peer=info:error", ["peer", "child"]),
        ("error:peer.=info", ["peer"]),
        ("info:peer.=error", ["child", "runtimes", "library_warning"]),
        ("error:peer.child=debug", ["child", "debug"]),
        ("error:peer.child,library=debug", ["child", "debug", "library", "library_warning"]),
        ("error:peer=debug:peer.child=error", ["peer"]),
        ("fatal:runtimes=payload", ["runtimes"]),
    ],
)
def test_specifications(spec: str, expected: list[str]) -> None:
    stream = configured(spec)
    logging.getLogger("peer").info("peer")
    logging.getLogger("peer.child").info("child")
    logging.getLogger("peer.child").debug("debug")
    logging.getLogger("runtimes").info("runtimes")
    logging.getLogger("library").info("library")
    logging.getLogger("library").warning("library_warning")
    assert messages(stream) == expected


def test_what_is_not_wanted_is_not_even_formatted() -> None:
    configured("info:peer.child=debug")
    assert logging.getLogger("peer.child.grandchild").isEnabledFor(logging.DEBUG)
    assert not logging.getLogger("peer.other").isEnabledFor(logging.DEBUG)


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("loud", "bad segment 'loud'"),
        ("info:peer=loud", "bad segment 'peer=loud'"),
        ("=info", "no logger specified in segment '=info'"),
        ("a=b=info", "bad segment 'a=b=info'"),
        ("a=", "bad segment 'a='"),
        ("a..b=info", "bad logger name 'a..b'"),
        ("a,,b=info", "bad logger name ''"),
        ("a b=info", "bad logger name 'a b'"),
    ],
)
def test_a_bad_specification_changes_nothing(spec: str, problem: str) -> None:
    stream = configured("info")
    expected = re.escape(f"invalid logging specification '{spec}': {problem}")
    with pytest.raises(ValueError, match=expected):
        logs.configure(spec)
    with pytest.raises(ValueError, match="unknown log format 'xml'"):
        logs.configure("info", "xml")
    logging.getLogger("peer").info("still")
    assert messages(stream) == ["still"]


def test_a_new_configuration_replaces_the_old_and_no_other() -> None:
    other = logging.NullHandler()
    logging.getLogger().addHandler(other)
    first = configured("debug:peer.child=error")
    second = configured("info")
    logging.getLogger("peer.child").info("child")
    logging.getLogger("peer.child").debug("debug")
    assert first.getvalue() == ""
    assert messages(second) == ["child"]
    assert other in logging.getLogger().handlers


def test_the_default_is_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    logging.getLogger("peer").info("here")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith("INFO    peer: here\n")


def test_another_specification_can_hold_later() -> None:
    stream = configured("info")
    logs.activate("peer.child=debug:error")
    logging.getLogger("peer.child").debug("child")
    logging.getLogger("peer").warning("peer")
    logs.activate("")
    logging.getLogger("peer.child").debug("quiet")
    logging.getLogger("peer").info("again")
    assert messages(stream) == ["child", "again"]


def test_a_bad_one_leaves_what_holds() -> None:
    configured("warning:peer.child=debug")
    with pytest.raises(ValueError, match="bad segment 'loud'"):
        logs.activate("loud")
    assert str(logs.active()) == "peer.child=debug:warn"


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("", "info"),
        ("WARNING", "warn"),
        ("b,a=debug:peer.=critical:fatal", "a=debug:b=debug:peer.=error:fatal"),
    ],
)
def test_what_holds_is_told_as_fabric_tells_it(spec: str, told: str) -> None:
    logs.activate(spec)
    assert str(logs.active()) == told


def test_records_are_counted_by_level() -> None:
    stream = configured("error:peer.=info:peer.child.=warning")
    before = logs.entries()
    for name in ("peer", "peer.child"):
        logging.getLogger(name).info("info")
        logging.getLogger(name).log(33, "between")
    counted = {
        level: (checked - before[level][0], written - before[level][1])
        for level, (checked, written) in logs.entries().items()
    }
    assert messages(stream) == ["info", "between", "between"]
    assert counted == {
        "debug": (0, 0),
        "info": (1, 1),
        "warn": (2, 2),
        "error": (0, 0),
        "fatal": (0, 0),
    }
