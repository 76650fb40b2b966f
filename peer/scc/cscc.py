"""cscc: the channels this peer has joined.

Room:      peer.scc   (used by app)
Loop:      Trio
Fabric:    core/scc/cscc/configure.go (release-2.5); `GetChannels` only, so far
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fabric_protos.codec import encode
from fabric_protos.protos import ChannelInfo, ChannelQueryResponse
from fabric_protos.stream import Response
from peer.errors import PeerError
from peer.scc.runner import SystemCall


class Cscc:
    """Answers configuration queries.

    Args:
        channels: returns the ids of the joined channels.
    """

    name = "cscc"

    def __init__(self, channels: Callable[[], Sequence[str]]) -> None:
        self._channels = channels

    async def invoke(self, call: SystemCall) -> Response:
        """Answer one call; see `SystemChaincode.invoke`."""
        function = bytes(call.args[0]).decode(errors="replace") if call.args else ""
        if function != "GetChannels":
            raise PeerError(f"Requested function {function} not found.")
        channels = [ChannelInfo(channel_id=channel_id) for channel_id in self._channels()]
        return Response(status=200, payload=encode(ChannelQueryResponse(channels=channels)))
