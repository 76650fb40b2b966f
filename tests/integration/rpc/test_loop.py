"""The asyncio loop inside the peer: what escapes there is logged and ends nothing."""

from __future__ import annotations

import asyncio

import pytest
from trio_asyncio import aio_as_trio

from peer.rpc.loop import open_loop

from .conftest import settle


async def test_an_error_that_escapes_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def explode() -> None:
        raise NotImplementedError("an odd frame")

    async with open_loop() as loop:
        loop.call_soon(explode)
        await settle()
        assert await aio_as_trio(asyncio.sleep)(0, "alive") == "alive"
    [record] = [record for record in caplog.records if record.name == "peer.rpc"]
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], NotImplementedError)
