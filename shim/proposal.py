"""What a stub takes out of the client's signed proposal.

Room:      shim   (imports fabric_protos.stream)
Loop:      none
Lifetime:  transaction
Fabric:    `newChaincodeStub`, shim/stub.go (fabric-chaincode-go)
"""

from __future__ import annotations

from fabric_protos.stream import (
    ChaincodeProposalPayload,
    ChannelHeader,
    Header,
    Proposal,
    SignatureHeader,
    SignedProposal,
)

CONFIG = 1
ENDORSER_TRANSACTION = 3


class ProposalFields:
    """Creator, transient map, time stamp and the parts of the binding.

    Attributes:
        creator: marshalled ``SerializedIdentity`` of the client.
        transient: the client's private input, never part of the transaction.
        timestamp_ns: the client's clock, nanoseconds since the epoch; None when it was not sent.
    """

    __slots__ = ("_epoch", "_nonce", "creator", "timestamp_ns", "transient")

    def __init__(self, signed: SignedProposal) -> None:
        """Read the proposal.

        Raises:
            ValueError: a part is missing, malformed or of the wrong type; `DecodeError` is one.
        """
        proposal = Proposal.decode(signed.proposal_bytes)
        if not proposal.header:
            raise ValueError("failed to extract Proposal fields: proposal header is nil")
        header = Header.decode(proposal.header)
        channel_header = ChannelHeader.decode(header.channel_header)
        if channel_header.type not in (ENDORSER_TRANSACTION, CONFIG):
            raise ValueError(
                "invalid channel header type. Expected 'ENDORSER_TRANSACTION' or 'CONFIG', "
                f"received '{channel_header.type}'"
            )
        signature_header = SignatureHeader.decode(header.signature_header)
        self.creator = signature_header.creator
        self.transient = ChaincodeProposalPayload.decode(proposal.payload).transient_map
        stamp = channel_header.timestamp
        self.timestamp_ns = None if stamp is None else stamp.seconds * 10**9 + stamp.nanos
        self._nonce = signature_header.nonce
        self._epoch = channel_header.epoch

    def binding(self) -> bytes:
        """Return SHA-256 over nonce, creator and epoch: what ties a token to this proposal."""
        from hashlib import sha256

        return sha256(self._nonce + self.creator + self._epoch.to_bytes(8, "little")).digest()
