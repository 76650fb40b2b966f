"""Ordering services on other machines: their blocks are followed, transactions handed to them.

Room:      peer.ordering   (imports peer.channels, peer.remote; used by service)
Loop:      Trio
Lifetime:  peer; one task for each channel, in the peer's nursery
Fabric:    core/deliverservice/deliveryclient.go (release-2.5)
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

import trio

from fabric_protos.common import Status
from peer.channel.bundle import Bundle
from peer.channels import Joined
from peer.errors import BroadcastRefused
from peer.msp.identity import SigningIdentity
from peer.ordering.calls import broadcast
from peer.ordering.connections import Connections
from peer.ordering.endpoints import Named, Routes
from peer.ordering.following import Follower, Patience
from peer.ordering.submitting import OrdererNode
from peer.remote import Dial, Endpoint

log = logging.getLogger("peer.ordering")


class RemoteOrdering:
    """The channels that others order.

    Args:
        identity: the peer's; requests for blocks are signed by it.
        nursery: of the peer; followers and connections live in it until it is cancelled.
    """

    def __init__(
        self,
        identity: SigningIdentity,
        dial: Dial,
        routes: Routes,
        patience: Patience,
        nursery: trio.Nursery,
    ) -> None:
        self._identity = identity
        self._dial = dial
        self._routes = routes
        self._patience = patience
        self._nursery = nursery
        self._connections = Connections(dial, nursery)
        self._joined: dict[str, Joined] = {}
        self._followers: dict[str, Follower] = {}

    def start(self, joined: Joined) -> None:
        """Begin to follow a channel; where its orderers cannot be reached, as soon as they can."""
        follower = Follower(
            joined, self._identity, self._dial, self._routes, self._patience, self._forget
        )
        channel_id = joined.channel.channel_id
        self._joined[channel_id], self._followers[channel_id] = joined, follower
        self._nursery.start_soon(_run, joined, follower)

    def follower(self, channel_id: str) -> Follower | None:
        """Return what follows a channel, None where nothing does."""
        return self._followers.get(channel_id)

    def named(self, bundle: Bundle) -> Sequence[Named]:
        """Return where the orderers are that a configuration names."""
        return self._routes.named(bundle)

    def orderers(self, bundle: Bundle) -> Sequence[OrdererNode]:
        """Return the orderers that a configuration names, to hand them transactions."""
        named = self.named(bundle)
        return [
            OrdererNode(endpoint.address, msp_id, partial(self._broadcast, endpoint))
            for endpoint, msp_id in named
        ]

    async def _broadcast(self, endpoint: Endpoint, data: bytes) -> None:
        await broadcast(await self._connections.to(endpoint), data)

    def _forget(self) -> None:
        """Close the connections to orderers that no channel names any more."""
        bundles = [joined.channel.bundle for joined in self._joined.values()]
        self._connections.keep({each.endpoint for bundle in bundles for each in self.named(bundle)})


async def _run(joined: Joined, follower: Follower) -> None:
    """Follow until the peer closes; a channel that breaks must not take the others down."""
    try:
        await follower.run()
    except Exception as exc:
        channel_id = joined.channel.channel_id
        follower.trouble = f"a block cannot be committed: {exc}"
        log.exception("channel %s is not followed any more", channel_id)
        reason = f"channel {channel_id} is not followed any more: {exc}"
        joined.statuses.fail(BroadcastRefused(Status.SERVICE_UNAVAILABLE, reason))
