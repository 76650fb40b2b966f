"""A server that stops: what is being answered is, what would never end is ended."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import grpc
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from peer.rpc import http2
from peer.rpc.loop import open_loop
from peer.rpc.server import Limits, Server
from tests.integration.rpc import raw
from tests.integration.server.conftest import Service, google_client, in_thread, path

pytestmark = pytest.mark.usefixtures("both_ways")

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


class Stopping:
    """A server in a task of its own, to be stopped while others talk to it."""

    def __init__(self, service: Service, **limits: Any) -> None:
        self.server = Server(service.methods(), limits=Limits(**limits))
        self.address = ""
        self.stopped = trio.Event()
        self._stop = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        async with self.server.listen("127.0.0.1", 0) as self.address:
            task_status.started()
            await self._stop.wait()
        self.stopped.set()

    async def begin(self) -> None:
        """Begin to stop, up to where it waits for calls."""
        self._stop.set()
        await wait_all_tasks_blocked(0.05)

    async def wait(self) -> None:
        with trio.fail_after(10):
            await self.stopped.wait()


@asynccontextmanager
async def stoppable(service: Service, **limits: Any) -> AsyncIterator[Stopping]:
    stopping = Stopping(service, **limits)
    async with open_loop(), trio.open_nursery() as nursery:
        await nursery.start(stopping.run)
        yield stopping
        nursery.cancel_scope.cancel()


def outlive_goaway(client: raw.RawPeer) -> None:
    """Let a client go on after GOAWAY as every gRPC library does, and h2 does not."""
    machine = client.h2.state_machine
    machine._transitions = machine._transitions | http2._GOAWAY_CLOSES_NOTHING


async def test_a_call_that_is_being_answered_is(service: Service) -> None:
    async with stoppable(service) as stopping, google_client(stopping.address) as client:
        pending = client.channel.unary_unary(path(service.wait)).future(b"the answer")
        await service.began.wait()
        await stopping.begin()
        assert not stopping.stopped.is_set()
        with pytest.raises(OSError, match=r"refused|failed"):
            await raw.dial(stopping.address)
        failure = await client.failure("echo", timeout=5)
        assert failure.code is UNAVAILABLE
        service.go.set()
        assert await in_thread(pending.result) == b"the answer"
        await stopping.wait()


async def test_a_new_call_on_an_old_connection_may_be_tried_elsewhere(service: Service) -> None:
    async with stoppable(service) as stopping, raw.client(stopping.address) as client:
        await client.call(path(service.wait))
        await client.send_data(raw.frame(b"x"), end=True)
        await service.began.wait()
        outlive_goaway(client)
        await stopping.begin()
        await client.call(path(service.echo))  # it has not read GOAWAY yet
        await client.until(lambda: client.reset is not None)
        assert client.reset == 7  # REFUSED_STREAM
        assert client.goaway == 0
        service.go.set()
        assert await client.messages(1) == [b"x"]
        await stopping.wait()


async def test_an_endless_stream_is_ended_at_once(service: Service) -> None:
    async with (
        stoppable(service, grace_s=3600) as stopping,
        google_client(stopping.address) as client,
    ):
        call = client.channel.stream_stream(path(service.listen))(iter([b"x"]))
        assert await in_thread(partial(next, call)) == b"x"
        await stopping.begin()
        with pytest.raises(grpc.RpcError) as info:
            await in_thread(lambda: list(call))
        assert info.value.code() is UNAVAILABLE  # type: ignore[attr-defined]
        assert info.value.details() == "the peer is stopping"  # type: ignore[attr-defined]
        await stopping.wait()


async def test_a_stream_of_requests_ends_well(service: Service) -> None:
    async with (
        stoppable(service, grace_s=3600) as stopping,
        raw.client(stopping.address) as client,
    ):
        await client.call(path(service.chat))
        await client.send(b"x")
        assert await client.messages(1) == [b"x"]
        await client.send_data(raw.frame(b"half of a request")[:9])
        outlive_goaway(client)
        await stopping.begin()
        assert await client.status() == (0, "")
        await stopping.wait()


async def test_what_takes_too_long_is_cut_off(service: Service) -> None:
    async with (
        stoppable(service, grace_s=0.1) as stopping,
        google_client(stopping.address) as client,
    ):
        pending = client.channel.unary_unary(path(service.wait)).future(b"x")
        await service.began.wait()
        await stopping.begin()
        await stopping.wait()
        assert service.ended.is_set()
        error = await in_thread(pending.exception)
        assert error.code() is UNAVAILABLE


async def test_cancellation_ends_calls_at_once(service: Service) -> None:
    stopping = Stopping(service, grace_s=3600)
    scope = trio.CancelScope()

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        with scope:
            await stopping.run(task_status=task_status)

    async with open_loop(), trio.open_nursery() as nursery:
        await nursery.start(run)
        async with google_client(stopping.address) as client:
            pending = client.channel.unary_unary(path(service.wait)).future(b"x")
            await service.began.wait()
            scope.cancel()
            error = await in_thread(pending.exception)
            assert error.code() is UNAVAILABLE
            assert service.ended.is_set()


async def test_an_address_that_is_taken(service: Service) -> None:
    async with stoppable(service) as stopping:
        host, _, port = stopping.address.rpartition(":")
        with pytest.raises(OSError, match="in use"):
            async with Server([]).listen(host, int(port)):
                pytest.fail("it listens")
