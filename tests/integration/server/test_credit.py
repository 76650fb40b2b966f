"""Answers that wait for flow control."""

from __future__ import annotations

import pytest
from h2.events import PingAckReceived
from h2.settings import SettingCodes

from peer.rpc.served_stream import ServedStream
from tests.integration.rpc import raw
from tests.integration.server.conftest import Service, path, serving

CALLS = 40
ANSWER_BYTES = 9000
DRIPS = 50


async def pinged(client: raw.RawPeer) -> None:
    """Return when the server has dealt with all that it was sent."""
    client.events.clear()
    client.h2.ping(b"01234567")
    await client.flush()
    await client.until(lambda: any(isinstance(each, PingAckReceived) for each in client.events))


async def give(client: raw.RawPeer, size: int) -> None:
    client.h2.increment_flow_control_window(size)
    await client.flush()


async def test_a_little_credit_wakes_nobody_in_vain(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The frame costs a client 13 bytes, and may not cost a try for each of its calls."""
    tries: list[int] = []
    write = ServedStream.write

    def counted(stream: ServedStream, data: memoryview) -> int:
        tries.append(stream.id)
        return write(stream, data)

    monkeypatch.setattr(ServedStream, "write", counted)
    async with (
        serving(service.methods()) as address,
        raw.client(address, generous=False) as client,
    ):
        client.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 1 << 20})
        streams = []
        for _ in range(CALLS):
            await client.call(path(service.fill))
            await client.send_data(raw.frame(str(ANSWER_BYTES).encode()), end=True)
            streams.append(client.stream_id)
        await pinged(client)
        tries.clear()
        for _ in range(DRIPS):
            await give(client, 1)
        await pinged(client)
        assert len(tries) <= DRIPS + CALLS
        assert len(set(tries)) <= 2  # who waits longest
        tries.clear()
        await give(client, CALLS * ANSWER_BYTES * 2)
        await pinged(client)
        assert set(tries) >= set(streams[-CALLS // 2 :])  # and now everybody
