"""cscc: the channels this peer has joined, and their configurations.

Room:      peer.scc   (imports peer.channel; used by assembly)
Loop:      Trio
Lifetime:  peer
Fabric:    core/scc/cscc/configure.go (release-2.5)
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from fabric_protos.codec import decode, encode
from fabric_protos.common import Block
from fabric_protos.errors import DecodeError
from fabric_protos.protos import ChannelInfo, ChannelQueryResponse, JoinBySnapshotStatus
from fabric_protos.stream import Response, SignedProposal
from peer.channel.channel import Channel
from peer.channel.configblock import channel_id_of, first_bundle
from peer.errors import AccessDenied, ConfigUpdateRefused, PeerError
from peer.scc.access import AccessControl, asked_for
from peer.scc.runner import SystemCall

OK = 200


NO_ARGUMENTS = ("GetChannels", "JoinBySnapshotStatus")


class SnapshotJoins(Protocol):
    """Joins channels by snapshots, one at a time."""

    @property
    def current(self) -> str:
        """The directory of the snapshot that a channel is being joined by, empty if none is."""
        ...

    async def begin(self, directory: str) -> None:
        """Begin to join a channel; returns before that is done.

        Raises:
            PeerError: it is seen at once that it cannot be joined so.
        """
        ...


class Cscc:
    """Joins channels and answers queries of their configurations.

    Args:
        channel: finds a joined channel, None where there is none of that name.
        channels: returns the ids of the joined channels.
        join: joins a channel by its first block.
        snapshots: joins channels by snapshots.
    """

    name = "cscc"

    def __init__(
        self,
        *,
        access: AccessControl,
        channel: Callable[[str], Channel | None],
        channels: Callable[[], Sequence[str]],
        join: Callable[[Block], Awaitable[object]],
        snapshots: SnapshotJoins,
    ) -> None:
        self._access = access
        self._channel = channel
        self._channels = channels
        self._join = join
        self._snapshots = snapshots

    async def invoke(self, call: SystemCall) -> Response:
        """Answer one call; see `SystemChaincode.invoke`."""
        args = [bytes(arg) for arg in call.args]
        function = args[0].decode(errors="replace") if args else ""
        if len(args) < (1 if function in NO_ARGUMENTS else 2):
            raise PeerError(f"Incorrect number of arguments, {len(args)}")
        signed = call.params.signed_proposal
        if (name := asked_for(signed)) != self.name:
            raise PeerError(
                f"Cannot invoke CSCC from another chaincode, original invocation for '{name}'"
            )
        match function:
            case "GetChannels":
                payload = self._get_channels(signed)
            case "JoinChain":
                payload = await self._join_chain(args[1], signed)
            case "JoinChainBySnapshot":
                payload = await self._join_by_snapshot(args[1], signed)
            case "JoinBySnapshotStatus":
                self._check(function, "", signed)
                current = self._snapshots.current
                payload = encode(
                    JoinBySnapshotStatus(
                        in_progress=bool(current), bootstrapping_snapshot_dir=current
                    )
                )
            case "GetConfigBlock":
                channel = self._readable(function, args[1], signed)
                block = await channel.ledger.last_config_block()
                assert block is not None, "a joined channel has a configuration"
                payload = encode(block)
            case "GetChannelConfig":
                payload = encode(self._readable(function, args[1], signed).bundle.config)
            case _:
                raise PeerError(f"Requested function {function} not found.")
        return Response(status=OK, payload=payload)

    def _get_channels(self, signed: SignedProposal | None) -> bytes:
        self._check("GetChannels", "", signed)
        channels = [ChannelInfo(channel_id=channel_id) for channel_id in self._channels()]
        return encode(ChannelQueryResponse(channels=channels))

    async def _join_chain(self, data: bytes, signed: SignedProposal | None) -> bytes:
        try:
            block = decode(Block, data)
        except DecodeError as exc:
            raise PeerError(f"Failed to reconstruct the genesis block, {exc}") from exc
        try:
            channel_id = channel_id_of(block)
        except ConfigUpdateRefused as exc:
            raise ConfigUpdateRefused(
                f'"JoinChain" request failed to extract channel id from the block due to [{exc}]'
            ) from exc
        try:
            first_bundle(block)
        except PeerError as exc:
            raise ConfigUpdateRefused(
                f'"JoinChain" for channelID = {channel_id} failed because of validation of '
                f"configuration block, because of {exc}"
            ) from exc
        self._check("JoinChain", channel_id, signed)
        if self._snapshots.current:
            raise PeerError(
                f"a ledger is being created from a snapshot at {self._snapshots.current}. Call "
                "ledger creation again after it is done."
            )
        await self._join(block)
        return b""

    async def _join_by_snapshot(self, argument: bytes, signed: SignedProposal | None) -> bytes:
        if not argument:
            raise PeerError("Cannot join the channel, no snapshot directory provided")
        self._check("JoinChainBySnapshot", "", signed)
        await self._snapshots.begin(os.fsdecode(argument))
        return b""

    def _readable(self, function: str, argument: bytes, signed: SignedProposal | None) -> Channel:
        channel_id = argument.decode(errors="replace")
        self._check(function, channel_id, signed)
        channel = self._channel(channel_id)
        assert channel is not None, "its policies have been asked"
        return channel

    def _check(self, function: str, channel_id: str, signed: SignedProposal | None) -> None:
        try:
            self._access.check(f"{self.name}/{function}", channel_id, signed)
        except AccessDenied as exc:
            where = f"[{function}][{channel_id}]" if channel_id else f"[{function}]"
            raise AccessDenied(f"access denied for {where}: {exc}") from exc
