"""Which peers together satisfy all the policies that a transaction has to.

Room:      peer.discovery   (imports ledger, lifecycle, msp, validation; used by service, gateway)
Loop:      Trio; point reads of the state, and a test of each peer against each principal. What
           whoever asks has brought policies for is worked out in a thread
Lifetime:  one question
Fabric:    discovery/endorsement/{endorsement,collection}.go, common/policies/inquire (release-2.5)

The policies are those that the committer will ask, read in the same way. Each is taken apart into
the sets of principals that satisfy it; a principal with the peers that are one is a *group*, a set
of groups with how many peers of each it takes is a *layout*.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from fabric_protos.codec import encode
from fabric_protos.common import MspPrincipal
from fabric_protos.errors import DecodeError
from fabric_protos.protos import ChaincodeCall, ChaincodeInterest, CollectionConfigPackage
from peer.channel.bundle import Bundle
from peer.channel.channel import Channel
from peer.discovery.peers import KnownPeers, PeerNode
from peer.errors import LedgerError, NoEndorsers, PolicyError
from peer.ledger.api import QueryExecutor
from peer.lifecycle import state
from peer.lifecycle.collections import member_principals, organisation_of
from peer.msp.policies import Policy, from_envelope
from peer.msp.standard import Role, role_principal
from peer.reading import apart
from peer.validation.definitions import Definitions, EndorsementRules
from peer.validation.verdict import Invalid

MERGED_LIMIT = 100
"""Ways to satisfy a policy that are looked at where there are several policies."""

Needs = Counter[bytes]
"""How many peers it takes of each principal, which is marshalled."""


class Descriptor(NamedTuple):
    """Who can endorse a transaction.

    Attributes:
        groups: name to the peers of a group.
        layouts: any of them is enough; name of a group to how many of its peers.
    """

    groups: Mapping[str, Sequence[PeerNode]]
    layouts: Sequence[Mapping[str, int]]


class _Place(NamedTuple):
    """A channel, and its state at this moment."""

    channel: Channel
    reader: QueryExecutor
    definitions: Definitions


class Endorsements:
    """Finds out who can endorse on the channels of this peer.

    Args:
        channel: finds a joined channel, None where there is none of that name.
    """

    def __init__(self, peers: KnownPeers, channel: Callable[[str], Channel | None]) -> None:
        self._peers = peers
        self._channel = channel

    async def descriptor(self, channel_id: str, interest: ChaincodeInterest) -> Descriptor:
        """Return who can endorse what touches certain chaincodes, collections and keys.

        Args:
            interest: at least one chaincode.

        Raises:
            NoEndorsers: no peers that are known can, or something is not defined.

        Cancellation: changes nothing.
        Source: `endorsementAnalyzer.PeersForEndorsement` (release-2.5).
        """
        with self._reading(channel_id, interest) as place:
            members = self._authorised(place, interest)
            policies = dict.fromkeys(
                policy for call in interest.chaincodes for policy in _policies(place, call)
            )
        if not policies:
            raise NoEndorsers("no principal sets remained after filtering")
        principals = _Principals(place.channel.bundle, members)
        able = self._able(channel_id, interest, members)
        work = partial(_satisfied, list(policies), principals, able)
        if any(call.key_policies for call in interest.chaincodes):
            return await apart(work)
        return work()

    def able(self, channel_id: str, interest: ChaincodeInterest) -> set[PeerNode]:
        """Return the peers that can run some chaincodes and may read what these read.

        Args:
            interest: at least one chaincode.

        Raises:
            NoEndorsers: something is not defined.

        Source: `endorsementAnalyzer.PeersAuthorizedByCriteria` (release-2.5).
        """
        with self._reading(channel_id, interest) as place:
            members = self._authorised(place, interest)
        return self._able(channel_id, interest, members)

    @contextmanager
    def _reading(self, channel_id: str, interest: ChaincodeInterest) -> Iterator[_Place]:
        channel = self._channel(channel_id)
        if channel is None:
            raise _unknown(channel_id, interest.chaincodes[0].name)
        reader = channel.ledger.new_query_executor()
        try:
            yield _Place(channel, reader, Definitions(channel.bundle, reader))
        finally:
            reader.done()

    def _able(
        self, channel_id: str, interest: ChaincodeInterest, members: Sequence[PeerNode]
    ) -> set[PeerNode]:
        names = {call.name for call in interest.chaincodes}
        can_run = (self._peers.with_chaincode(channel_id, name) for name in names)
        return set(members).intersection(*can_run)

    def _authorised(self, place: _Place, interest: ChaincodeInterest) -> list[PeerNode]:
        """Return the peers of a channel that may know what has to be read."""
        members = self._peers.of_channel(place.channel.channel_id)
        msps = place.channel.bundle.msps
        for call in interest.chaincodes:
            collections = _rules(place, call.name).collections
            if collections is None:
                collections = state.read_legacy_collections(place.reader, call.name)
            for name in () if call.no_private_reads else call.collection_names:
                accepted = _members_of(collections, call.name, name)
                members = [
                    node
                    for node in members
                    if any(node.satisfies(principal, msps) for principal in accepted)
                ]
        return members


class _Principals:
    """The principals of some policies, and which peers are each of them."""

    def __init__(self, bundle: Bundle, nodes: Sequence[PeerNode]) -> None:
        self._msps = bundle.msps
        self._nodes = nodes
        self._known: dict[bytes, MspPrincipal] = {}
        self._satisfying: dict[bytes, list[PeerNode]] = {}

    def needs(self, policy: Policy) -> list[Needs]:
        """Return the ways to satisfy a policy that the peers there are suffice for.

        Raises:
            NoEndorsers: nobody ever satisfies it.
        """
        keys: dict[int, bytes] = {}  # a principal is the same object wherever it stands

        def has_peers(principal: MspPrincipal) -> bool:
            keys[id(principal)] = key = encode(principal)
            self._known.setdefault(key, principal)
            return bool(self.peers(key))

        ways = policy.principal_sets(has_peers)
        if not ways and not any(policy.principal_sets(lambda principal: True)):
            raise NoEndorsers("endorsement policy cannot be satisfied")
        found = (Counter(keys[id(each)] for each in way) for way in ways)
        return [needs for needs in found if self.suffice(needs)]

    def suffice(self, needs: Needs) -> bool:
        """Tell whether there are as many peers of each principal as it takes."""
        return bool(needs) and all(len(self.peers(key)) >= n for key, n in needs.items())

    def peers(self, key: bytes) -> list[PeerNode]:
        """Return the peers that are one."""
        found = self._satisfying.get(key)
        if found is None:
            principal = self._known[key]
            found = [node for node in self._nodes if node.satisfies(principal, self._msps)]
            self._satisfying[key] = found
        return found

    def covers(self, narrow: bytes, wide: bytes) -> bool:
        """Tell whether whoever is the one is the other, too: a peer of an organisation a member."""
        if narrow == wide:
            return True
        try:
            organisation = organisation_of(self._known[narrow])
        except (DecodeError, ValueError):
            return False
        return wide == encode(role_principal(organisation, Role.MEMBER))


def _satisfied(
    policies: Sequence[Policy], principals: _Principals, able: set[PeerNode]
) -> Descriptor:
    """
    Raises:
        NoEndorsers: the peers there are do not suffice.
    """
    needs = _merged([principals.needs(policy) for policy in policies], principals)
    if not needs:
        raise NoEndorsers("no peer combination can satisfy the endorsement policy")
    return _descriptor(needs, principals, able)


def _merged(needs: Sequence[list[Needs]], principals: _Principals) -> list[Needs]:
    """Return the ways to satisfy several policies at once, the smallest first.

    A way that satisfies both of two policies already is not joined with others.
    """
    merged, *others = needs
    for other in others:
        left, right = merged[:MERGED_LIMIT], other[:MERGED_LIMIT]
        both_left = [a for a in left if any(_joined(a, b, principals) == a for b in right)]
        both_right = [b for b in right if any(_joined(b, a, principals) == b for a in left)]
        joined = both_left + both_right
        joined += [
            _joined(a, b, principals)
            for a in left
            if a not in both_left
            for b in right
            if b not in both_right
        ]
        unique = {frozenset(each.items()): each for each in joined}
        merged = [each for each in unique.values() if principals.suffice(each)]
    return sorted(merged, key=Counter.total)


def _joined(first: Needs, second: Needs, principals: _Principals) -> Needs:
    """Return what satisfies two policies: a peer that both ask for counts for both."""
    result = Counter[bytes]()
    free = first.copy()
    for wanted, count in second.items():
        for key in sorted(free, key=lambda each: each != wanted):
            shared = min(count, free[key])
            if principals.covers(key, wanted):
                result[key] += shared
            elif principals.covers(wanted, key):
                result[wanted] += shared
            else:
                continue
            free[key] -= shared
            count -= shared
        result[wanted] += count
    result.update(free)
    return +result


def _descriptor(needs: Sequence[Needs], principals: _Principals, able: set[PeerNode]) -> Descriptor:
    names: dict[bytes, str] = {}
    for way in needs:
        for key in way:
            names.setdefault(key, f"G{len(names)}")
    groups = {
        name: [node for node in principals.peers(key) if node in able]
        for key, name in names.items()
    }
    layouts = [
        {names[key]: count for key, count in way.items()}
        for way in needs
        if all(len(groups[names[key]]) >= count for key, count in way.items())
    ]
    if not layouts:
        raise NoEndorsers("required chaincodes are not installed on sufficient peers")
    return Descriptor({name: peers for name, peers in groups.items() if peers}, layouts)


def _policies(place: _Place, call: ChaincodeCall) -> Iterator[Policy]:
    """Yield what must be satisfied for one chaincode, or for some of its collections and keys."""
    name, rules = call.name, _rules(place, call.name)
    try:
        for collection in call.collection_names:
            yield place.definitions.collection_policy(rules, collection)
        for policy in call.key_policies:
            yield from_envelope(policy, place.channel.bundle.msps)
    except (Invalid, PolicyError) as exc:
        raise NoEndorsers(f"chaincode {name}: {exc}") from exc
    if call.disregard_namespace_policy:
        if not call.key_policies and not call.collection_names:
            raise NoEndorsers(
                f"requested to disregard chaincode {name}'s policy but key and collection "
                "policies are missing, either disable DisregardNamespacePolicy or specify at "
                "least one key policy or at least one collection policy"
            )
    elif not call.collection_names:
        yield rules.policy


def _rules(place: _Place, name: str) -> EndorsementRules:
    try:
        return place.definitions.rules(name)
    except (Invalid, LedgerError) as exc:
        raise _unknown(place.channel.channel_id, name) from exc


def _members_of(
    collections: CollectionConfigPackage, name: str, collection: str
) -> list[MspPrincipal]:
    """Return the principals whose peers have a collection's values."""
    if collection.startswith(state.IMPLICIT):
        return [role_principal(collection.removeprefix(state.IMPLICIT), Role.MEMBER)]
    found = state.find_collection(collections, collection)
    if found is None:
        raise NoEndorsers(
            f"collection {collection} doesn't exist in collection config for chaincode {name}"
        )
    try:
        return member_principals(found).identities
    except ValueError as exc:
        raise NoEndorsers(f"collection {collection} of chaincode {name}: {exc}") from exc


def _unknown(channel_id: str, name: str) -> NoEndorsers:
    return NoEndorsers(f"No metadata was found for chaincode {name} in channel {channel_id}")
