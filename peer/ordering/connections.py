"""Connections to other machines, opened when somebody needs one and then shared.

Room:      peer.ordering   (imports peer.remote; used by remote, neighbours and assembly)
Loop:      Trio
Lifetime:  peer; a connection ends when nobody keeps it any more
Fabric:    internal/pkg/gateway/endpoint.go (release-2.5)
"""

from __future__ import annotations

from collections.abc import Collection

import trio

from peer.errors import CallFailed, Code
from peer.remote import Connection, Dial, Endpoint


class Connections:
    """One connection to each endpoint; many callers share one attempt to connect.

    Args:
        nursery: of the peer; connections are held in it.
    """

    def __init__(self, dial: Dial, nursery: trio.Nursery) -> None:
        self._dial = dial
        self._nursery = nursery
        self._links: dict[Endpoint, _Link] = {}

    async def to(self, endpoint: Endpoint) -> Connection:
        """Return the connection to an endpoint.

        Raises:
            CallFailed: there is none; the next call tries again.

        Cancellation: goes on connecting, for the others.
        """
        link = self._links.get(endpoint)
        if link is None:
            link = self._links[endpoint] = _Link()
            self._nursery.start_soon(self._hold, endpoint, link)
        await link.settled.wait()
        if link.failure is not None:
            raise CallFailed(link.failure.code, link.failure.message)
        assert link.connection is not None
        return link.connection

    def keep(self, endpoints: Collection[Endpoint]) -> None:
        """Close the connections to all others."""
        for endpoint in self._links.keys() - set(endpoints):
            self._links.pop(endpoint).scope.cancel()

    async def _hold(self, endpoint: Endpoint, link: _Link) -> None:
        try:
            with link.scope:
                async with self._dial(endpoint) as link.connection:
                    link.settled.set()
                    await trio.sleep_forever()
        except CallFailed as exc:
            link.failure = exc
        finally:
            if link.connection is None and link.failure is None:
                text = f"{endpoint}: it is not wanted any more"
                link.failure = CallFailed(Code.UNAVAILABLE, text)
            if self._links.get(endpoint) is link:
                del self._links[endpoint]
            link.settled.set()


class _Link:
    """One connection: attempted, then there or failed."""

    def __init__(self) -> None:
        self.settled = trio.Event()
        self.scope = trio.CancelScope()
        self.connection: Connection | None = None
        self.failure: CallFailed | None = None
