"""The exact releases `peer.rpc.http2` was written for."""

from __future__ import annotations

import asyncio
import importlib.metadata

import grpclib
import h2.connection
from grpclib import events, protocol, server

import peer.rpc


def test_grpclib_is_the_release_this_was_written_for() -> None:
    """`peer.rpc.http2` reaches into these; on another release, read its changes first."""
    assert importlib.metadata.version("grpclib") == grpclib.__version__ == "0.4.9"


def test_the_private_names_exist() -> None:
    assert hasattr(events, "_DispatchServerEvents")
    assert {"_unacked", "_eof"} <= set(vars(protocol.Buffer(lambda size: None)))
    assert hasattr(server.Handler, "accept")
    assert isinstance(h2.connection.H2ConnectionStateMachine._transitions, dict)


def test_asyncio_outside_trio_is_left_alone() -> None:
    async def loop_type() -> type:
        return type(asyncio.get_running_loop())

    assert peer.rpc.trio_asyncio is not None
    assert asyncio.run(loop_type()) is asyncio.SelectorEventLoop
