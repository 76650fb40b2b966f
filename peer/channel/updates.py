"""Sign updates of a channel's configuration.

Room:      peer.channel   (imports peer.msp; used by cli)
Loop:      none; signs twice, about 0.1 ms
Lifetime:  none
Fabric:    internal/peer/channel/create.go `sanityCheckAndSignConfigTx` (release-2.5)
"""

from __future__ import annotations

import os
import time

from fabric_protos.codec import decode, encode
from fabric_protos.common import (
    ConfigSignature,
    ConfigUpdateEnvelope,
    Envelope,
    Header,
    HeaderType,
    Payload,
)
from fabric_protos.errors import DecodeError
from fabric_protos.stream import ChannelHeader, SignatureHeader, Timestamp
from peer.errors import ConfigUpdateRefused
from peer.msp.identity import SigningIdentity

NONCE_BYTES = 24


def signed_update(data: bytes, identity: SigningIdentity, channel_id: str = "") -> bytes:
    """Return an update with one more signature, in an envelope of the signer's own.

    Args:
        data: marshalled envelope of type CONFIG_UPDATE.
        channel_id: what it must be an update of; anything if empty.

    Raises:
        ConfigUpdateRefused: it is no update, or one of another channel.
    """
    try:
        payload = decode(Payload, decode(Envelope, data).payload)
        if payload.header is None:
            raise ConfigUpdateRefused("bad header")
        channel = ChannelHeader.decode(payload.header.channel_header)
        update = decode(ConfigUpdateEnvelope, payload.data)
    except DecodeError as exc:
        raise ConfigUpdateRefused(f"it is no configuration transaction: {exc}") from exc
    if channel.type != HeaderType.CONFIG_UPDATE:
        raise ConfigUpdateRefused("bad type")
    if not channel.channel_id:
        raise ConfigUpdateRefused("empty channel id")
    if channel_id and channel.channel_id != channel_id:
        raise ConfigUpdateRefused(f"mismatched channel ID {channel.channel_id} != {channel_id}")
    header = _signature_header(identity)
    signature = identity.sign(header + update.config_update)
    update.signatures.append(ConfigSignature(signature_header=header, signature=signature))
    now = time.time_ns()
    own = ChannelHeader(
        type=HeaderType.CONFIG_UPDATE,
        timestamp=Timestamp(seconds=now // 10**9, nanos=now % 10**9),
        channel_id=channel.channel_id,
    )
    signed = encode(
        Payload(
            header=Header(
                channel_header=own.encode(), signature_header=_signature_header(identity)
            ),
            data=encode(update),
        )
    )
    return encode(Envelope(payload=signed, signature=identity.sign(signed)))


def _signature_header(identity: SigningIdentity) -> bytes:
    return SignatureHeader(creator=identity.creator, nonce=os.urandom(NONCE_BYTES)).encode()
