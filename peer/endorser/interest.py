"""What a simulation touched, as far as it decides on who else has to endorse.

Room:      peer.endorser   (imports peer.ledger; used by endorser)
Loop:      none
Lifetime:  one proposal
Fabric:    `Endorser.buildChaincodeInterest`, core/endorser/endorser.go (release-2.5)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fabric_protos.codec import decode
from fabric_protos.common import SignaturePolicyEnvelope
from fabric_protos.errors import DecodeError
from fabric_protos.protos import ChaincodeCall, ChaincodeInterest
from peer.errors import LedgerError
from peer.ledger.api import SimulationResults

POLICY = "VALIDATION_PARAMETER"


def interest_of(
    results: SimulationResults, is_system: Callable[[str], bool]
) -> ChaincodeInterest | None:
    """Return the chaincodes, collections and policies of keys that endorsers must answer for.

    Returns:
        None where there are none: nothing was simulated, or only system chaincodes were used.

    Raises:
        LedgerError: a key's policy cannot be read.
    """
    names = (name for name in results.namespaces if not is_system(name))
    calls = [call for name in names for call in _calls(results, name)]
    return ChaincodeInterest(chaincodes=calls) if calls else None


def _calls(results: SimulationResults, name: str) -> Iterator[ChaincodeCall]:
    """Yield one call for the chaincode itself, and one for each collection that counts."""
    policies: set[bytes] = set()
    without: set[str] = set()
    written = {
        collection: keys
        for (namespace, collection), keys in results.written.items()
        if namespace == name
    }
    for collection, keys in written.items():
        for metadata in keys:
            if policy := metadata.get(POLICY):
                policies.add(policy)
            else:
                without.add(collection)
    if policies or not written or "" in written:
        yield ChaincodeCall(
            name=name,
            key_policies=[_read(policy) for policy in sorted(policies)],
            disregard_namespace_policy=bool(written) and "" not in without,
        )
    read = {collection for namespace, collection in results.private_reads if namespace == name}
    for collection in sorted((without - {""}) | read):
        yield ChaincodeCall(
            name=name, collection_names=[collection], no_private_reads=collection not in read
        )


def _read(policy: bytes) -> SignaturePolicyEnvelope:
    try:
        return decode(SignaturePolicyEnvelope, policy)
    except DecodeError as exc:
        raise LedgerError(f"the policy of a key cannot be read: {exc}") from exc
