"""Discovery: what clients ask before they choose peers themselves.

Room:      peer.discovery   (imports channel, lifecycle, scc, services; served by rpc)
Loop:      Trio
Lifetime:  peer
Fabric:    discovery/service.go, discovery/support (release-2.5)

Only this peer is told of: a peer without gossip has no signed word of any other. A client that
knows several asks each of them.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from hashlib import sha256

from fabric_protos.codec import decode, encode
from fabric_protos.discovery import (
    ChaincodeQuery,
    ChaincodeQueryResult,
    EndorsementDescriptor,
    Error,
    Layout,
    Peer,
    PeerMembershipResult,
    Peers,
    Query,
    QueryResult,
    Request,
    Response,
    SignedRequest,
)
from fabric_protos.errors import DecodeError
from fabric_protos.gossip import Envelope
from fabric_protos.protos import ChaincodeInterest
from peer.channel.acls import LocalPolicy
from peer.channel.channel import Channel
from peer.discovery.announcements import Announcer
from peer.discovery.config import config_result
from peer.discovery.endorsement import Descriptor, Endorsements
from peer.discovery.peers import PeerNode
from peer.errors import AccessDenied, CallRefused, Code, NoEndorsers, PolicyError
from peer.msp.policies import SignedData
from peer.scc.access import AccessControl
from peer.services.api import SMALL, Caller, Method, Unary, decoder

log = logging.getLogger("peer.discovery")

WRITERS = "/Channel/Application/Writers"
DENIED = "access denied"

MAX_QUERIES = 100
"""Of one request. Clients ask a few; each query costs a look at a policy, whoever asks."""

Chaincodes = Callable[[str], Awaitable[Mapping[str, str]]]
"""Returns the chaincodes that this peer can run on a channel, name to sequence or version."""


class Discovery:
    """Answers the questions of one client after another.

    Args:
        own: this peer.
        endorsements: knows this peer and no other.
        local: who may ask about the peer itself: its administrators, or all of its organisation.
    """

    def __init__(
        self,
        *,
        own: PeerNode,
        announcer: Announcer,
        channel: Callable[[str], Channel | None],
        chaincodes: Chaincodes,
        endorsements: Endorsements,
        access: AccessControl,
        local: LocalPolicy = LocalPolicy.ADMINS,
    ) -> None:
        self._own = own
        self._announcer = announcer
        self._channel = channel
        self._chaincodes = chaincodes
        self._endorsements = endorsements
        self._access = access
        self._local = local

    def methods(self) -> Sequence[Method]:
        """Return what is served."""
        return [
            Unary(
                path="/discovery.Discovery/Discover",
                decode=decoder(SignedRequest),
                call=self.discover,
                encode=encode,
                max_request=SMALL,
            )
        ]

    async def discover(self, signed: SignedRequest, caller: Caller) -> Response:
        """Answer each query of a request by itself; one that is refused has an error for a result.

        Raises:
            CallRefused: UNKNOWN, the request as a whole makes no sense; RESOURCE_EXHAUSTED, it asks
                too much.
        """
        request = _read(signed, caller)
        assert request.authentication is not None  # `_read` checks it
        data = SignedData(signed.payload, request.authentication.client_identity, signed.signature)
        return Response(results=[await self._answer(each, data) for each in request.queries])

    async def _answer(self, query: Query, data: SignedData) -> QueryResult:
        try:
            if not query.channel:
                self._access.check_local(self._local, data)
                if query.local_peers is None:
                    raise NoEndorsers("unknown or missing request type")
                return self._members(self._peer(None))
            channel = self._channel(query.channel)
            if channel is None:
                raise AccessDenied(f"channel {query.channel} is not here")
            channel.bundle.policy(WRITERS).evaluate([data])
            return await self._about(channel, query)
        except (AccessDenied, PolicyError) as exc:
            log.warning("a query about channel '%s' is refused: %s", query.channel, exc)
            return QueryResult(error=Error(content=DENIED))
        except NoEndorsers as exc:
            log.warning("a query about channel '%s' has no answer: %s", query.channel, exc)
            return QueryResult(error=Error(content=str(exc)))

    async def _about(self, channel: Channel, query: Query) -> QueryResult:
        if query.config_query is not None:
            return QueryResult(config_result=config_result(channel.bundle))
        if query.cc_query is not None:
            return await self._endorsers(channel, query.cc_query)
        if query.peer_query is not None:
            return await self._peers(channel, query.peer_query.filter)
        raise NoEndorsers("unknown or missing request type")

    async def _peers(self, channel: Channel, wanted: ChaincodeInterest | None) -> QueryResult:
        """Return the peers of a channel; with chaincodes given, those that can run them all."""
        if wanted is not None and wanted.chaincodes:
            authorised = self._endorsements.able(channel.channel_id, wanted)
            if self._own not in authorised:
                return self._members()
        return self._members(self._peer(await self._state(channel)))

    async def _endorsers(self, channel: Channel, query: ChaincodeQuery) -> QueryResult:
        """Return for each set of chaincodes who can endorse what touches all of them."""
        _check(query)
        peer = self._peer(await self._state(channel))
        content = []
        for interest in query.interests:
            try:
                found = await self._endorsements.descriptor(channel.channel_id, interest)
            except NoEndorsers as exc:
                log.warning("nobody can endorse on channel %s: %s", channel.channel_id, exc)
                names = ", ".join(call.name for call in interest.chaincodes)
                raise NoEndorsers(f"failed constructing descriptor for {names}: {exc}") from exc
            content.append(_descriptor(interest.chaincodes[0].name, found, peer))
        return QueryResult(cc_query_res=ChaincodeQueryResult(content=content))

    async def _state(self, channel: Channel) -> Envelope:
        chaincodes = await self._chaincodes(channel.channel_id)
        return self._announcer.state(channel.channel_id, channel.ledger.height, chaincodes)

    def _peer(self, state: Envelope | None) -> Peer:
        return Peer(
            state_info=state,
            membership_info=self._announcer.alive(),
            identity=self._own.identity,
        )

    def _members(self, *peers: Peer) -> QueryResult:
        found = {self._own.msp_id: Peers(peers=list(peers))}
        return QueryResult(members=PeerMembershipResult(peers_by_org=found))


def _descriptor(name: str, found: Descriptor, peer: Peer) -> EndorsementDescriptor:
    return EndorsementDescriptor(
        chaincode=name,
        endorsers_by_groups={group: Peers(peers=[peer]) for group in found.groups},
        layouts=[Layout(quantities_by_group=dict(layout)) for layout in found.layouts],
    )


def _read(signed: SignedRequest, caller: Caller) -> Request:
    """
    Raises:
        CallRefused: it cannot be read, names nobody, is bound to another connection, or asks too
            much.
    """
    try:
        request = decode(Request, signed.payload)
    except DecodeError as exc:
        raise _refused(f"failed parsing request: {exc}") from exc
    if request.authentication is None:
        raise _refused("access denied, no authentication info in request")
    if not request.authentication.client_identity:
        raise _refused("access denied, client identity wasn't supplied")
    claimed = request.authentication.client_tls_cert_hash
    if caller.certificate and claimed != sha256(caller.certificate).digest():
        raise _refused("client claimed TLS hash doesn't match computed TLS hash from gRPC stream")
    if len(request.queries) > MAX_QUERIES:
        text = f"more queries than max ({len(request.queries)} vs. {MAX_QUERIES})"
        raise CallRefused(Code.RESOURCE_EXHAUSTED, text)
    return request


def _check(query: ChaincodeQuery) -> None:
    if not query.interests:
        raise NoEndorsers("chaincode query must have at least one chaincode interest")
    for interest in query.interests:
        if not interest.chaincodes:
            raise NoEndorsers("chaincode interest must contain at least one chaincode")
        if not all(call.name for call in interest.chaincodes):
            raise NoEndorsers("chaincode name in interest cannot be empty")


def _refused(text: str) -> CallRefused:
    return CallRefused(Code.UNKNOWN, text)
