"""What a message must satisfy before it is ordered.

Room:      peer.ordering   (imports peer.channel, peer.msp; used by solo)
Loop:      none; verifies one signature, about 0.1 ms
Lifetime:  none
Fabric:    orderer/common/{broadcast,msgprocessor} (release-2.5)

The ordering service looks neither into transactions nor at their endorsements: that is for the
peers, when the block has come.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

from fabric_protos.codec import decode
from fabric_protos.common import Envelope, HeaderType, Payload, Status
from fabric_protos.errors import DecodeError
from fabric_protos.stream import ChannelHeader, SignatureHeader
from peer.channel.bundle import Bundle, Orderer
from peer.errors import BroadcastRefused, IdentityRefused, PolicyNotSatisfied
from peer.msp.policies import SignedData

WRITERS = "/Channel/Writers"
MAINTENANCE_WRITERS = "/Channel/Orderer/Writers"
_MADE_BY_ORDERERS = (HeaderType.CONFIG, HeaderType.ORDERER_TRANSACTION)


class Parsed(NamedTuple):
    """An envelope as the ordering service sees it.

    Attributes:
        channel_id: the channel its header names.
        type: the header's, a `HeaderType` or anything else.
        creator: who claims to have signed it.
    """

    envelope: Envelope
    channel_id: str
    tx_id: str
    type: int
    creator: bytes

    @property
    def size(self) -> int:
        """What it counts in a batch, in bytes."""
        return len(self.envelope.payload) + len(self.envelope.signature)

    @property
    def is_config_update(self) -> bool:
        """It changes the channel's configuration."""
        return self.type == HeaderType.CONFIG_UPDATE


def parse(data: bytes) -> Parsed:
    """Read a marshalled envelope.

    Raises:
        BroadcastRefused: it cannot be read, or is of a type that only orderers make.
    """
    try:
        envelope = decode(Envelope, data)
        header = decode(Payload, envelope.payload).header
        if header is None:
            raise BroadcastRefused(Status.BAD_REQUEST, "the envelope has no header")
        channel = ChannelHeader.decode(header.channel_header)
        creator = SignatureHeader.decode(header.signature_header).creator
    except DecodeError as exc:
        raise BroadcastRefused(Status.BAD_REQUEST, f"the envelope cannot be read: {exc}") from exc
    if channel.type in _MADE_BY_ORDERERS:
        raise BroadcastRefused(
            Status.BAD_REQUEST, "message is of type that cannot be processed directly"
        )
    return Parsed(envelope, channel.channel_id, channel.tx_id, channel.type, creator)


def check(bundle: Bundle, orderer: Orderer, message: Parsed) -> None:
    """Check size, expiry and signature against the channel's present configuration.

    Raises:
        BroadcastRefused: one of them fails.
    """
    if message.size > orderer.absolute_max_bytes:
        raise BroadcastRefused(
            Status.BAD_REQUEST,
            f"message payload is {message.size} bytes and exceeds maximum allowed "
            f"{orderer.absolute_max_bytes} bytes",
        )
    if orderer.is_in_maintenance and not message.is_config_update:
        raise BroadcastRefused(
            Status.SERVICE_UNAVAILABLE, "normal transactions are rejected: maintenance mode"
        )
    if "V1_1" in orderer.capabilities:
        _check_expiry(bundle, message.creator)
    path = MAINTENANCE_WRITERS if orderer.is_in_maintenance else WRITERS
    signed = SignedData(message.envelope.payload, message.creator, message.envelope.signature)
    try:
        bundle.policy(path).evaluate([signed])
    except PolicyNotSatisfied as exc:
        raise BroadcastRefused(Status.FORBIDDEN, f"policy {path} is not satisfied: {exc}") from exc


def _check_expiry(bundle: Bundle, creator: bytes) -> None:
    try:
        expires_at = bundle.msps.deserialize(creator).expires_at
    except IdentityRefused:
        return  # the policy refuses it
    if expires_at < datetime.now(UTC):
        raise BroadcastRefused(Status.BAD_REQUEST, "broadcast client identity expired")
