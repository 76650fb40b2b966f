"""Chaincode definitions by channel.

Room:      peer.lifecycle   (implements peer.chaincode's Definitions and CollectionStore)
Loop:      none
Lifetime:  peer; kept in memory until definitions are committed through the ledger
Fabric:    core/chaincode/lifecycle/endorsement_info.go (release-2.5)
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from fabric_protos.stream import SignedProposal
from peer.chaincode.support import EndorsementInfo
from peer.chaincode.transactions import Permissions
from peer.errors import InvalidDefinition, LedgerError, UnknownChaincode

SYSTEM_CHAINCODES = frozenset({"cscc", "escc", "lscc", "qscc", "vscc"})
"""Names that Fabric keeps for itself, whether this peer runs them or not."""

_NAME = re.compile(r"[a-zA-Z0-9]+([-_][a-zA-Z0-9]+)*")
_VERSION = re.compile(r"[A-Za-z0-9_.+-]+")


def check_name(name: str) -> None:
    """
    Raises:
        InvalidDefinition: no chaincode may be defined under it.

    Source: core/chaincode/lifecycle/scc.go `validateInput` (release-2.5).
    """
    if not _NAME.fullmatch(name):
        raise InvalidDefinition(
            name,
            f"invalid chaincode name '{name}': it must be letters and digits, with single '-' or "
            "'_' between them; choose another one with `name`",
        )
    if name in SYSTEM_CHAINCODES:
        raise InvalidDefinition(name, f"chaincode name '{name}' is that of a system chaincode")


def check_version(name: str, version: str) -> None:
    """
    Raises:
        InvalidDefinition: `version` is not acceptable.
    """
    if not _VERSION.fullmatch(version):
        raise InvalidDefinition(
            name,
            f"invalid chaincode version '{version}': it must be letters, digits, '_', '.', '+' "
            "and '-'",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaincodeDefinition:
    """What a channel agreed on for one chaincode.

    Attributes:
        ccid: the package that runs it on this peer.
        collections: names of its private data collections.
    """

    name: str
    version: str
    ccid: str
    init_required: bool = False
    collections: frozenset[str] = frozenset()


class DefinitionStore:
    """The definitions of every channel of one peer."""

    def __init__(self) -> None:
        self._definitions: dict[tuple[str, str], ChaincodeDefinition] = {}
        self._collections: dict[str, dict[str, frozenset[str]]] = {}

    def define(self, channel_id: str, definition: ChaincodeDefinition) -> None:
        """Set or replace a definition."""
        self._definitions[channel_id, definition.name] = definition
        self.collections(channel_id)[definition.name] = definition.collections

    def remove(self, name: str) -> set[str]:
        """Remove the definitions of a name on every channel and return the packages they used."""
        found = [key for key in self._definitions if key[1] == name]
        for channel_id, _ in found:
            self.collections(channel_id).pop(name, None)
        return {self._definitions.pop(key).ccid for key in found}

    def get(self, channel_id: str, name: str) -> ChaincodeDefinition:
        """
        Raises:
            UnknownChaincode: nothing of that name on the channel.
        """
        try:
            return self._definitions[channel_id, name]
        except KeyError:
            raise UnknownChaincode(channel_id, name) from None

    def ccids(self) -> set[str]:
        """Return the packages that a definition on any channel still uses.

        Source: `ChaincodeCustodian.NotifyStoppable`, core/chaincode/lifecycle/custodian.go
        (release-2.5), is about the others.
        """
        return {definition.ccid for definition in self._definitions.values()}

    def names_of(self, ccid: str) -> list[str]:
        """Return the chaincodes that a package runs, on any channel."""
        return sorted({found.name for found in self._definitions.values() if found.ccid == ccid})

    def endorsement_info(self, channel_id: str, name: str) -> EndorsementInfo:
        """Return version, package and init flag; see `Definitions.endorsement_info`."""
        found = self.get(channel_id, name)
        return EndorsementInfo(found.version, found.ccid, found.init_required)

    def collections(self, channel_id: str) -> dict[str, frozenset[str]]:
        """Return chaincode name → names of its private data collections; stays up to date."""
        return self._collections.setdefault(channel_id, {})

    def permissions(
        self, channel_id: str, namespace: str, collection: str, proposal: SignedProposal | None
    ) -> Permissions:
        """Return what may be done with a collection; see `CollectionStore.permissions`."""
        if collection not in self.collections(channel_id).get(namespace, ()):
            raise LedgerError(
                f"collection {channel_id}/{namespace}/{collection} could not be found"
            )
        return Permissions(read=True, write=True)
