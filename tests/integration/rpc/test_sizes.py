"""Windows of a few bytes, messages of megabytes, many messages at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from h2.settings import SettingCodes

from .conftest import Server, listening
from .raw import client

pytestmark = pytest.mark.usefixtures("both_ways")


@pytest.mark.parametrize("credit", [1, 7, 100])
async def test_credit_of_a_few_bytes(served: Server, tmp_path: Path, credit: int) -> None:
    messages = [bytes([number]) * number for number in range(30)]
    async with (
        listening(served, tmp_path) as endpoint,
        client(endpoint.address, generous=False) as chaincode,
    ):
        chaincode.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 0})
        await chaincode.call()
        await chaincode.send(*messages)
        expected = sum(map(len, messages)) + 5 * len(messages)
        while len(chaincode.body) < expected:
            arrived = len(chaincode.body)
            chaincode.h2.increment_flow_control_window(credit, chaincode.stream_id)
            await chaincode.flush()
            wanted = min(arrived + credit, expected)
            await chaincode.until(lambda wanted=wanted: len(chaincode.body) >= wanted)
        assert len(chaincode.body) == expected
        assert await chaincode.messages(len(messages)) == messages


async def test_ten_megabytes_both_ways(served: Server, tmp_path: Path) -> None:
    large = os.urandom(10 << 20)
    async with (
        listening(served, tmp_path, limit=len(large)) as endpoint,
        client(endpoint.address) as chaincode,
    ):
        await chaincode.call()
        for _ in range(2):
            await chaincode.send(large, b"and then")
            assert await chaincode.messages(2) == [large, b"and then"]


async def test_many_at_once_are_answered_in_order(served: Server, tmp_path: Path) -> None:
    async with listening(served, tmp_path) as endpoint, client(endpoint.address) as chaincode:
        await chaincode.call()
        for turn in range(20):
            messages = [b"%d/%d" % (turn, number) for number in range(32)]
            await chaincode.send(*messages)
            assert await chaincode.messages(32) == messages
