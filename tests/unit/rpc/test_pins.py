"""The exact releases that `peer.rpc` and `fabric_protos.data_frames` were written for."""

from __future__ import annotations

import asyncio
import importlib.metadata
import tomllib
from pathlib import Path

import grpclib
import h2.connection
from grpclib import events, protocol, server
from grpclib.utils import Wrapper
from h2.config import H2Configuration
from h2.connection import AllowedStreamIDs, ConnectionState, H2Connection
from h2.stream import StreamClosedBy, StreamState

import peer.rpc

from .frames import REQUEST

PROJECT = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())


def test_these_are_the_releases_this_was_written_for() -> None:
    """Private names of these are used; on another release, read its changes first."""
    assert importlib.metadata.version("grpclib") == grpclib.__version__ == "0.4.9"
    assert importlib.metadata.version("h2") == h2.__version__ == "4.4.1"
    assert importlib.metadata.version("hpack") == "4.2.0"
    pins = {"grpclib==0.4.9", "h2==4.4.1", "hpack==4.2.0"}
    assert pins <= set(PROJECT["project"]["dependencies"])


def test_the_private_names_exist() -> None:
    assert hasattr(events, "_DispatchServerEvents")
    assert {"_unacked", "_eof"} <= set(vars(protocol.Buffer(lambda size: None)))
    assert hasattr(server.Handler, "accept")
    assert isinstance(h2.connection.H2ConnectionStateMachine._transitions, dict)


def test_the_private_names_of_data_frames_exist() -> None:
    client = H2Connection()
    client.initiate_connection()
    client.send_headers(1, REQUEST)
    stream = client.streams[1]
    assert stream._expected_content_length is None
    assert stream.state_machine.state is StreamState.OPEN
    windows = (client._inbound_flow_control_window_manager, stream._inbound_window_manager)
    for window in windows:
        assert window.current_window_size == window.max_window_size == 65535
    assert client.outbound_flow_control_window == stream.outbound_flow_control_window == 65535
    assert client.max_outbound_frame_size == client.max_inbound_frame_size == 16384
    assert client.incoming_buffer._data == bytearray()
    assert client.incoming_buffer._headers_buffer == []
    assert Wrapper()._error is None


def test_the_private_names_of_calls_exist() -> None:
    server = H2Connection(H2Configuration(client_side=False))
    server.initiate_connection()
    assert server.encoder.table_size_changes == []
    assert server.encoder.header_table.resized is False
    stream = server._begin_new_stream(1, AllowedStreamIDs.ODD)
    stream._initialize_content_length([])
    assert stream.state_machine.state is StreamState.IDLE
    assert stream.state_machine.client is stream.state_machine.headers_received is None
    assert not server._inbound_flow_control_window_manager.process_bytes(1)
    server._closed_streams[1] = StreamClosedBy.SEND_END_STREAM
    assert server.state_machine.state is ConnectionState.IDLE


def test_asyncio_outside_trio_is_left_alone() -> None:
    async def loop_type() -> type:
        return type(asyncio.get_running_loop())

    assert peer.rpc.trio_asyncio is not None
    assert asyncio.run(loop_type()) is asyncio.SelectorEventLoop
