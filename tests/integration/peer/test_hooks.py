"""What a program hears of a peer: callbacks, whatever becomes of them, and metrics."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from fabric_protos.stream import ChaincodeMessage
from peer import open_peer
from peer.errors import ExecuteTimeout
from tests.integration.peer.scene import CHANNEL, Code, config


def talkative(code: Code) -> Path:
    """Return a chaincode that prints two lines before it connects."""
    source = code.book()
    program = source / "chaincode.py"
    program.write_text(
        program.read_text().replace("import wire", "import wire\nprint('one\\ntwo')", 1)
    )
    return source


async def test_output_of_a_chaincode_goes_to_the_log_and_the_program(
    code: Code, caplog: pytest.LogCaptureFixture
) -> None:
    source = talkative(code)
    caplog.set_level(logging.INFO)
    lines: list[tuple[str, str]] = []
    async with open_peer(config(), on_output=lambda *told: lines.append(told)) as peer:
        installed = await peer.install(source)
        await peer.query(CHANNEL, source.name, ["pid"])
        assert lines == [(installed.ccid, "one"), (installed.ccid, "two")]
    assert [text for text in caplog.messages if text in ("one", "two")] == ["one", "two"]


async def test_callbacks_that_fail_are_logged_once_and_change_nothing(
    code: Code, caplog: pytest.LogCaptureFixture
) -> None:
    calls = {"trace": 0, "on_stage": 0, "on_output": 0}

    def trace(ccid: str, from_chaincode: bool, message: ChaincodeMessage) -> None:
        calls["trace"] += 1
        raise BrokenPipeError(32, "Broken pipe")

    def on_stage(ccid: str, stage: str, elapsed_s: float) -> None:
        calls["on_stage"] += 1
        raise ZeroDivisionError("a bug")

    def on_output(ccid: str, line: str) -> None:
        calls["on_output"] += 1
        raise KeyError("a bug")

    source = talkative(code)
    async with open_peer(config(), trace=trace, on_stage=on_stage, on_output=on_output) as peer:
        await peer.install(source)
        for number in ("1", "2"):
            result = await peer.invoke(CHANNEL, source.name, ["add", "count"])
            assert (result.committed, result.payload) == (True, number.encode())
    assert calls["trace"] > 10
    assert calls["on_stage"] == len(("package", "build", "create", "start", "connect")) + 2
    assert calls["on_output"] == 2
    failures = [record.getMessage() for record in caplog.records if record.exc_info]
    assert sorted(text.partition(",")[0] for text in failures) == sorted(calls)


async def test_metrics_of_a_peer_are_its_own(code: Code) -> None:
    source = code.book()
    async with open_peer(config(execute_s=0.3)) as peer, open_peer(config()) as other:
        installed = await peer.install(source)
        with pytest.raises(ExecuteTimeout):
            await peer.query(CHANNEL, source.name, ["hold"])
        labels = {"chaincode": installed.ccid}

        def found(name: str, **more: str) -> float | None:
            return peer.metrics.value(name, **labels, **more)

        assert found("chaincode_launch_duration_count", success="true") == 1
        assert found("chaincode_execute_timeouts") == 1
        assert found("chaincode_launch_failures") is None
        stages = "triopeer_chaincode_launch_stage_seconds_count"
        assert peer.metrics.value(stages, stage="connect") == 1
        assert other.metrics.value(stages, stage="connect") is None
