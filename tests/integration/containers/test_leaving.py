"""What is left on the engine: nothing but the images of packages."""

from __future__ import annotations

import pytest
import trio

from peer.errors import StreamTerminated
from tests.integration.containers.code import ImageCode
from tests.integration.containers.site import CHANNEL, Site
from tests.integration.peer.scene import soon


@pytest.mark.node
async def test_calls_a_crash_a_stop_and_a_close(site: Site, code: ImageCode) -> None:
    caller, callee = code.book("caller"), code.book_over_tcp("callee")
    images = set(site.house.images())
    async with site.peer() as peer:

        async def text(name: str, *args: str) -> str:
            result = await peer.invoke(CHANNEL, name, args)
            assert (result.status, result.message) == (200, "")
            return result.payload.decode()

        def containers() -> int:
            return len(site.house.containers())

        for source in (caller, callee):
            await peer.install(source)
        assert await text(caller.name, "call", callee.name, "", "put", "key", "value") == "ok"
        assert await text(callee.name, "get", "key") == "value"
        assert containers() == 2
        assert len(site.house.networks()) == 1

        former = await site.inspect((await peer.install(callee)).ccid)
        with soon(), pytest.raises(StreamTerminated):
            await peer.query(CHANNEL, callee.name, ["exit", "3"])
        assert await text(caller.name, "call", callee.name, "", "get", "key") == "value"
        assert containers() == 2  # the crashed one is gone, and launched anew
        status, _ = await trio.to_thread.run_sync(
            site.engine.request, "GET", f"/containers/{former['Id']}/json"
        )
        assert status == 404

        await peer.chaincode.stop((await peer.install(caller)).ccid)
        assert containers() == 1
    assert site.left() == []
    assert set(site.house.images()) == images
