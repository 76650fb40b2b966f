"""What a peer tells of itself: that it is there, and how far it is on a channel.

Room:      peer.discovery   (imports msp; used by service)
Loop:      none; signs once for each message, about 0.05 ms
Lifetime:  one question
Fabric:    gossip/discovery `AliveMessage`, gossip/state `StateInfo` (release-2.5)

Fabric's peers send these to one another all the time. Here nobody gossips: they are made when a
client asks, as a client reads addresses, heights and chaincodes out of them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from hashlib import sha256

from fabric_protos.codec import decode, encode
from fabric_protos.gossip import (
    AliveMessage,
    Chaincode,
    Envelope,
    GossipMessage,
    GossipMessageTag,
    Member,
    PeerTime,
    Properties,
    StateInfo,
)
from fabric_protos.msp import SerializedIdentity
from peer.msp.identity import SigningIdentity


class Announcer:
    """Makes and signs what this peer tells of itself.

    Args:
        address: where others reach it.
    """

    def __init__(self, signer: SigningIdentity, address: str) -> None:
        identity = decode(SerializedIdentity, signer.creator)
        self._pki_id = sha256(identity.mspid.encode() + identity.id_bytes).digest()
        self._signer = signer
        self._address = address
        self._started = time.time_ns()

    def alive(self) -> Envelope:
        """Return that this peer is there."""
        member = Member(endpoint=self._address, pki_id=self._pki_id)
        return self._signed(
            GossipMessage(
                tag=GossipMessageTag.EMPTY,
                alive_msg=AliveMessage(membership=member, timestamp=self._now()),
            )
        )

    def state(self, channel_id: str, height: int, chaincodes: Mapping[str, str]) -> Envelope:
        """Return how far it is on a channel.

        Args:
            chaincodes: those that it can run, name to sequence or version.
        """
        properties = Properties(
            ledger_height=height,
            chaincodes=[
                Chaincode(name=name, version=version) for name, version in chaincodes.items()
            ],
        )
        return self._signed(
            GossipMessage(
                tag=GossipMessageTag.CHAN_OR_ORG,
                state_info=StateInfo(
                    timestamp=self._now(),
                    pki_id=self._pki_id,
                    channel_MAC=sha256(self._pki_id + channel_id.encode()).digest(),
                    properties=properties,
                ),
            )
        )

    def _now(self) -> PeerTime:
        return PeerTime(inc_num=self._started, seq_num=time.time_ns())

    def _signed(self, message: GossipMessage) -> Envelope:
        payload = encode(message)
        return Envelope(payload=payload, signature=self._signer.sign(payload))
