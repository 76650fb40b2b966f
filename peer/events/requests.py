"""Ask a peer or an orderer for blocks: the client's part of the Deliver protocol.

Room:      peer.events   (imports peer.msp; used by client, ordering)
Loop:      none; signs once, about 0.05 ms
Lifetime:  none
Fabric:    internal/peer/common/deliverclient.go, protoutil/txutils.go (release-2.5)
"""

from __future__ import annotations

import os
import time

from fabric_protos.codec import encode
from fabric_protos.common import Envelope, Header, HeaderType, Payload
from fabric_protos.orderer import (
    SeekInfo,
    SeekInfoSeekBehavior,
    SeekInfoSeekContentType,
    SeekInfoSeekErrorResponse,
    SeekNewest,
    SeekOldest,
    SeekPosition,
    SeekSpecified,
)
from fabric_protos.stream import ChannelHeader, SignatureHeader, Timestamp
from peer.msp.identity import SigningIdentity

OLDEST = SeekPosition(oldest=SeekOldest())
NEWEST = SeekPosition(newest=SeekNewest())
NONCE_BYTES = 24


def at(number: int) -> SeekPosition:
    """Return the position of one block."""
    return SeekPosition(specified=SeekSpecified(number=number))


FOREVER = at(2**64 - 1)


def seek_request(
    identity: SigningIdentity,
    channel_id: str,
    start: SeekPosition,
    stop: SeekPosition,
    *,
    waits: bool = True,
    best_effort: bool = False,
    headers_only: bool = False,
    tls_hash: bytes = b"",
) -> bytes:
    """Return a signed request for blocks, a marshalled envelope.

    Args:
        waits: for blocks that are not there yet; otherwise the answer is 404.
        best_effort: take blocks even of an orderer that has lost the others.
        headers_only: header and signatures will do; orderers before 3.0 send whole blocks.
        tls_hash: SHA-256 of the client's TLS certificate, where there is one.
    """
    now = time.time_ns()
    channel = ChannelHeader(
        type=HeaderType.DELIVER_SEEK_INFO,
        timestamp=Timestamp(seconds=now // 10**9, nanos=now % 10**9),
        channel_id=channel_id,
        tls_cert_hash=tls_hash,
    )
    signature = SignatureHeader(creator=identity.creator, nonce=os.urandom(NONCE_BYTES))
    errors, behavior = SeekInfoSeekErrorResponse, SeekInfoSeekBehavior
    content = SeekInfoSeekContentType
    seek = SeekInfo(
        start=start,
        stop=stop,
        behavior=behavior.BLOCK_UNTIL_READY if waits else behavior.FAIL_IF_NOT_READY,
        error_response=errors.BEST_EFFORT if best_effort else errors.STRICT,
        content_type=content.HEADER_WITH_SIG if headers_only else content.BLOCK,
    )
    header = Header(channel_header=channel.encode(), signature_header=signature.encode())
    payload = encode(Payload(header=header, data=encode(seek)))
    return encode(Envelope(payload=payload, signature=identity.sign(payload)))
