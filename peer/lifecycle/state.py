"""How chaincode definitions lie in a channel's state.

Room:      peer.lifecycle   (imports fabric_protos; used by definitions, scc and validation)
Loop:      none
Lifetime:  none; what is read is as old as the snapshot it is read from
Fabric:    core/chaincode/lifecycle/{lifecycle,serializer}.go, core/common/ccprovider (release-2.5)

A structure is spread over keys: ``namespaces/metadata/<name>`` says which fields there are, and
``namespaces/fields/<name>/<field>`` holds each one. Reading goes through whatever the caller reads
with; where that is a simulator, every read here becomes part of the transaction.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple, Protocol, TypeVar

import betterproto2

from fabric_protos.codec import decode, encode
from fabric_protos.errors import DecodeError
from fabric_protos.lifecycle import (
    ChaincodeEndorsementInfo,
    ChaincodeValidationInfo,
    StateData,
    StateMetadata,
)
from fabric_protos.protos import ChaincodeData, CollectionConfigPackage, StaticCollectionConfig
from peer.errors import LedgerError
from peer.ledger.api import KV, QueryExecutor, ResultsIterator, TxSimulator

M = TypeVar("M", bound=betterproto2.Message)

LIFECYCLE = "_lifecycle"
LSCC = "lscc"
NAMESPACES = "namespaces"
SOURCES = "chaincode-sources"
DEFINITION = "ChaincodeDefinition"
PARAMETERS = "ChaincodeParameters"
LOCAL_PACKAGE = "ChaincodeLocalPackage"
IMPLICIT = "_implicit_org_"

_NAMES_AT_ONCE = 1000
_SEQUENCE = re.compile(rf"{NAMESPACES}/fields/([a-zA-Z0-9]+(?:[-_][a-zA-Z0-9]+)*)/Sequence")
_METADATA = (f"{NAMESPACES}/metadata/", f"{NAMESPACES}/metadata0")
"""Bounds of the keys that say what there is: "0" follows "/"."""


class Reader(Protocol):
    """Reads public state."""

    def get_state(self, namespace: str, key: str) -> bytes | None: ...


class PrivateReader(Reader, Protocol):
    """Reads private data, too."""

    def get_private_data(self, namespace: str, collection: str, key: str) -> bytes | None: ...


class Writer(Reader, Protocol):
    """Reads state and writes it, which no read sees."""

    def set_state(self, namespace: str, key: str, value: bytes) -> None: ...

    def delete_state(self, namespace: str, key: str) -> None: ...


class HashReader(Protocol):
    """Knows the hashes of values."""

    def get_hash(self, namespace: str, key: str) -> bytes | None: ...


class OrganisationReader:
    """Reads what an organisation keeps for itself, and everybody has the hashes of."""

    def __init__(self, reader: QueryExecutor, msp_id: str) -> None:
        self._reader = reader
        self._collection = implicit_collection(msp_id)

    def get_state(self, namespace: str, key: str) -> bytes | None:
        """Return a value; only peers of the organisation have it."""
        return self._reader.get_private_data(namespace, self._collection, key)

    def get_hash(self, namespace: str, key: str) -> bytes | None:
        """Return the SHA-256 of a value."""
        return self._reader.get_private_data_hash(namespace, self._collection, key)


class OrganisationState(OrganisationReader):
    """Writes there, too."""

    def __init__(self, simulator: TxSimulator, msp_id: str) -> None:
        super().__init__(simulator, msp_id)
        self._simulator = simulator

    def set_state(self, namespace: str, key: str, value: bytes) -> None:
        """Write a value, of which the block carries the hash."""
        self._simulator.set_private_data(namespace, self._collection, key, value)

    def delete_state(self, namespace: str, key: str) -> None:
        """Delete a key."""
        self._simulator.delete_private_data(namespace, self._collection, key)


class Structure(NamedTuple):
    """Something spread over keys.

    Attributes:
        space: `NAMESPACES` or `SOURCES`.
        fields: in the order its metadata gives them.
    """

    space: str
    name: str
    datatype: str
    fields: Mapping[str, StateData]

    def metadata(self) -> bytes:
        """Return what its metadata key holds."""
        return encode(StateMetadata(datatype=self.datatype, fields=list(self.fields)))


@dataclass(frozen=True, slots=True, kw_only=True)
class CommittedDefinition:
    """A definition the channel's organisations agreed on through ``_lifecycle``."""

    sequence: int
    endorsement: ChaincodeEndorsementInfo
    validation: ChaincodeValidationInfo
    collections: CollectionConfigPackage

    def structure(self, name: str) -> Structure:
        """Return what is written where it is committed."""
        fields = {"Sequence": StateData(int_64=self.sequence), **self._parameters()}
        return Structure(NAMESPACES, name, DEFINITION, fields)

    def parameters(self, approval: str) -> Structure:
        """Return what an organisation writes that agrees to it; see `approval_name`."""
        return Structure(NAMESPACES, approval, PARAMETERS, self._parameters())

    def _parameters(self) -> dict[str, StateData]:
        return {
            "EndorsementInfo": StateData(bytes=encode(self.endorsement)),
            "ValidationInfo": StateData(bytes=encode(self.validation)),
            "Collections": StateData(bytes=encode(self.collections)),
        }

    def collection(self, name: str) -> StaticCollectionConfig | None:
        """Return a private data collection by its name."""
        return find_collection(self.collections, name)


def metadata_key(structure: str, name: str) -> str:
    """Return the key that says which fields a structure has."""
    return f"{structure}/metadata/{name}"


def field_key(structure: str, name: str, field: str) -> str:
    """Return the key of one field of a structure."""
    return f"{structure}/fields/{name}/{field}"


def approval_name(name: str, sequence: int) -> str:
    """Return the name under which an organisation's approval of one sequence is kept."""
    return f"{name}#{sequence}"


def implicit_collection(msp_id: str) -> str:
    """Return the collection that every organisation has in every namespace."""
    return f"{IMPLICIT}{msp_id}"


def collections_key(name: str) -> str:
    """Return the key of a legacy chaincode's collections in the namespace of lscc."""
    return f"{name}~collection"


def read_sequence(reader: Reader, name: str) -> int:
    """Return the sequence of a definition, 0 where there is none.

    Raises:
        LedgerError: the state holds something else there.
    """
    data = reader.get_state(LIFECYCLE, field_key(NAMESPACES, name, "Sequence"))
    if data is None:
        return 0
    sequence = _decoded(StateData, data, name).int_64
    if sequence is None:
        raise LedgerError(f"the sequence of chaincode {name} is no number")
    return sequence


def read_definition(reader: Reader, name: str) -> CommittedDefinition | None:
    """Return a definition, None where ``_lifecycle`` has none of that name.

    Raises:
        LedgerError: the state holds something else there.
    """
    metadata = reader.get_state(LIFECYCLE, metadata_key(NAMESPACES, name))
    if metadata is None or _decoded(StateMetadata, metadata, name).datatype != DEFINITION:
        return None
    return CommittedDefinition(
        sequence=read_sequence(reader, name),
        endorsement=_field(reader, name, "EndorsementInfo", ChaincodeEndorsementInfo),
        validation=_field(reader, name, "ValidationInfo", ChaincodeValidationInfo),
        collections=_field(reader, name, "Collections", CollectionConfigPackage),
    )


def read_package_id(reader: PrivateReader, msp_id: str, name: str, sequence: int) -> str | None:
    """Return the package an organisation chose for a sequence; empty if it chose to have none.

    Returns:
        None where it has not approved that sequence, as far as this peer knows.

    Raises:
        LedgerError: the state holds something else there.
    """
    key = field_key(SOURCES, approval_name(name, sequence), "PackageID")
    data = reader.get_private_data(LIFECYCLE, implicit_collection(msp_id), key)
    return None if data is None else _decoded(StateData, data, name).string or ""


async def defined_names(reader: QueryExecutor) -> list[str]:
    """Return the names of everything that ``_lifecycle`` has a definition of, sorted."""
    return await _names(reader.get_state_range(LIFECYCLE, *_METADATA))


async def legacy_names(reader: QueryExecutor) -> list[str]:
    """Return the names of everything that ``lscc`` has a definition of, sorted."""
    names = await _names(reader.get_state_range(LSCC, "", ""))
    return [name for name in names if "~" not in name]


async def approved(reader: QueryExecutor, msp_id: str) -> list[tuple[str, int]]:
    """Return name and sequence of everything an organisation has approved, sorted.

    In a simulation, nothing may be written afterwards.
    """
    found = reader.get_private_data_range(LIFECYCLE, implicit_collection(msp_id), *_METADATA)
    parts = [name.rpartition("#") for name in await _names(found)]
    return sorted((name, int(sequence)) for name, _, sequence in parts)


async def _names(found: ResultsIterator[KV]) -> list[str]:
    names = []
    try:
        while records := await found.take(_NAMES_AT_ONCE):
            names += [record.key.removeprefix(_METADATA[0]) for record in records]
    finally:
        found.close()
    return names


def read_chaincode_data(reader: Reader, name: str) -> ChaincodeData | None:
    """Return a legacy definition, None where lscc has none of that name.

    Raises:
        LedgerError: the state holds something else there.
    """
    data = reader.get_state(LSCC, name)
    return None if data is None else _decoded(ChaincodeData, data, name)


def read_legacy_collections(reader: Reader, name: str) -> CollectionConfigPackage:
    """Return the collections of a legacy chaincode.

    Raises:
        LedgerError: the state holds something else there.
    """
    data = reader.get_state(LSCC, collections_key(name))
    return _decoded(CollectionConfigPackage, data or b"", name)


def read_parameters(reader: Reader, approval: str, sequence: int) -> CommittedDefinition | None:
    """Return the definition an organisation agrees to; None where it has not.

    Raises:
        LedgerError: the state holds something else there, or the value is not here.
    """
    fields = read_structure(reader, NAMESPACES, approval, PARAMETERS)
    if not fields:
        return None
    content = {field: data.bytes or b"" for field, data in fields.items()}
    return CommittedDefinition(
        sequence=sequence,
        endorsement=_decoded(ChaincodeEndorsementInfo, content["EndorsementInfo"], approval),
        validation=_decoded(ChaincodeValidationInfo, content["ValidationInfo"], approval),
        collections=_decoded(CollectionConfigPackage, content["Collections"], approval),
    )


def read_structure(reader: Reader, space: str, name: str, datatype: str) -> dict[str, StateData]:
    """Return the fields of a structure; none where there is none of that type.

    Raises:
        LedgerError: the state holds something else there.
    """
    data = reader.get_state(LIFECYCLE, metadata_key(space, name))
    metadata = _decoded(StateMetadata, data or b"", name)
    if metadata.datatype != datatype:
        return {}
    return {
        field: _decoded(StateData, value, name)
        for field in metadata.fields
        if (value := reader.get_state(LIFECYCLE, field_key(space, name, field))) is not None
    }


def local_package(approval: str, package_id: str) -> Structure:
    """Return what an organisation writes that chose a package."""
    fields = {"PackageID": StateData(string=package_id)}
    return Structure(SOURCES, approval, LOCAL_PACKAGE, fields)


def save(writer: Writer, structure: Structure) -> None:
    """Write what has changed of a structure, and its metadata if its shape has.

    Raises:
        LedgerError: the state holds something else there.

    Source: `Serializer.Serialize`, core/chaincode/lifecycle/serializer.go (release-2.5).
    """
    space, name = structure.space, structure.name
    data = writer.get_state(LIFECYCLE, metadata_key(space, name))
    metadata = _decoded(StateMetadata, data or b"", name)
    present = {
        field: writer.get_state(LIFECYCLE, field_key(space, name, field))
        for field in metadata.fields
    }
    for field, value in structure.fields.items():
        content = encode(value)
        if present.pop(field, None) != content:
            writer.set_state(LIFECYCLE, field_key(space, name, field), content)
    is_reshaped = len(metadata.fields) != len(structure.fields)
    if present or is_reshaped or metadata.datatype != structure.datatype:
        writer.set_state(LIFECYCLE, metadata_key(space, name), structure.metadata())
    for field in present:
        writer.delete_state(LIFECYCLE, field_key(space, name, field))


def is_saved(reader: HashReader, structure: Structure) -> bool:
    """Tell by hashes alone whether a structure is there; reads no further than a difference.

    Source: `Serializer.IsSerialized`, core/chaincode/lifecycle/serializer.go (release-2.5).
    """
    space, name = structure.space, structure.name
    expected = {metadata_key(space, name): structure.metadata()} | {
        field_key(space, name, field): encode(value) for field, value in structure.fields.items()
    }
    return all(
        reader.get_hash(LIFECYCLE, key) == sha256(content).digest()
        for key, content in expected.items()
    )


def defined_collections(written: Iterable[tuple[str, str]], reader: Reader) -> dict[str, bytes]:
    """Return the collections of the chaincodes that a block defines; see `DefinedCollections`.

    One without collections is left out.

    Raises:
        LedgerError: the state holds something else there.

    Source: `UpdatedChaincodes`, core/chaincode/lifecycle/deployedcc_infoprovider.go,
    core/ledger/confighistory/mgr.go `HandleStateUpdates` (release-2.5).
    """
    names = set()
    for namespace, key in written:
        if namespace == LSCC:
            names.add(key.partition("~")[0])
        elif namespace == LIFECYCLE and (match := _SEQUENCE.fullmatch(key)):
            names.add(match[1])
    found = {}
    for name in names:
        definition = read_definition(reader, name)
        collections = (
            read_legacy_collections(reader, name) if definition is None else definition.collections
        )
        if collections.config:
            found[name] = encode(collections)
    return found


def collection_names(package: CollectionConfigPackage) -> frozenset[str]:
    """Return the names of a chaincode's collections."""
    statics = (each.static_collection_config for each in package.config)
    return frozenset(static.name for static in statics if static is not None)


def find_collection(package: CollectionConfigPackage, name: str) -> StaticCollectionConfig | None:
    """Return a collection by its name."""
    for each in package.config:
        static = each.static_collection_config
        if static is not None and static.name == name:
            return static
    return None


def _field(reader: Reader, name: str, field: str, cls: type[M]) -> M:
    data = reader.get_state(LIFECYCLE, field_key(NAMESPACES, name, field))
    content = None if data is None else _decoded(StateData, data, name).bytes
    return _decoded(cls, content or b"", name)


def _decoded(cls: type[M], data: bytes, name: str) -> M:
    try:
        return decode(cls, data)
    except DecodeError as exc:
        raise LedgerError(f"the definition of chaincode {name} cannot be read: {exc}") from exc
