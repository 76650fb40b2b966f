"""Identities, signatures and policies of a real three-organisation network."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from fabric_protos.codec import decode
from fabric_protos.common import (
    ChannelHeader,
    ConfigEnvelope,
    ConfigGroup,
    Envelope,
    Payload,
    SignatureHeader,
)
from fabric_protos.msp import FabricMspConfig, MspConfig
from fabric_protos.protos import ChaincodeActionPayload, Transaction
from peer.errors import PolicyNotSatisfied, SignatureRefused
from peer.ledger.blockfile import BlockFiles
from peer.ledger.blocks import envelopes_of
from peer.msp.manager import MspManager
from peer.msp.msp import Msp, MspVersion
from peer.msp.policies import PolicyManager, SignedData
from tests.shared_fixtures import shared_fixture

FIXTURE = "fabric-v20-ledger/ledgersData.zip"
BLOCK_FILE = "ledgersData/chains/chains/testchannel/blockfile_000000"
ENDORSER_TRANSACTION = 3


class Network(NamedTuple):
    """What the chain says: MSPs and policies of its first block, and the transactions."""

    msps: MspManager
    policies: PolicyManager
    creators: list[SignedData]
    endorsements: list[list[SignedData]]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    directory = tmp_path_factory.mktemp("chain")
    with zipfile.ZipFile(shared_fixture(FIXTURE)) as archive:
        (directory / Path(BLOCK_FILE).name).write_bytes(archive.read(BLOCK_FILE))
    files = BlockFiles(directory)
    envelopes = [envelope for record in files.scan() for envelope in envelopes_of(record.block)]
    files.close()
    config = decode(ConfigEnvelope, decode(Payload, decode(Envelope, envelopes[0]).payload).data)
    assert config.config is not None
    assert config.config.channel_group is not None
    channel = config.config.channel_group
    assert b"V2_0" in channel.values["Capabilities"].value
    msps = MspManager(Msp(each, version=MspVersion.V1_4_3) for each in configurations(channel))
    creators, endorsements = [], []
    for data in envelopes:
        envelope = decode(Envelope, data)
        payload = decode(Payload, envelope.payload)
        assert payload.header is not None
        header = decode(ChannelHeader, payload.header.channel_header)
        if header.type != ENDORSER_TRANSACTION:
            continue
        creator = decode(SignatureHeader, payload.header.signature_header).creator
        creators.append(SignedData(envelope.payload, creator, envelope.signature))
        (action,) = decode(Transaction, payload.data).actions
        endorsed = decode(ChaincodeActionPayload, action.payload).action
        assert endorsed is not None
        endorsements.append(
            [
                SignedData(
                    endorsed.proposal_response_payload + each.endorser,
                    each.endorser,
                    each.signature,
                )
                for each in endorsed.endorsements
            ]
        )
    return Network(msps, PolicyManager(channel, msps), creators, endorsements)


def configurations(group: ConfigGroup) -> Iterator[FabricMspConfig]:
    if "MSP" in group.values:
        config = decode(MspConfig, group.values["MSP"].value)
        yield decode(FabricMspConfig, config.config)
    for below in group.groups.values():
        yield from configurations(below)


def verified(network: Network, signatures: list[SignedData]) -> int:
    """Return how many signatures are right, having seen that no other data fits them."""
    count = 0
    for item in signatures:
        identity = network.msps.deserialize(item.identity)
        network.msps.validate(identity)
        identity.verify(item.data, item.signature)
        with pytest.raises(SignatureRefused):
            identity.verify(item.data + b"\0", item.signature)
        count += 1
    return count


def test_the_organisations(network: Network) -> None:
    assert set(network.msps.msps) == {"Org1MSP", "Org2MSP", "Org3MSP", "OrdererOrgMSP"}


def test_every_creator_and_endorser_is_verified(network: Network) -> None:
    assert verified(network, network.creators) == 15
    assert verified(network, [each for some in network.endorsements for each in some]) == 21


def test_the_policies_of_the_channel(network: Network) -> None:
    writers = network.policies.policy("/Channel/Application/Writers")
    for creator in network.creators:
        writers.evaluate([creator])
    majority = network.policies.policy("/Channel/Application/Endorsement")
    admins = network.policies.policy("/Channel/Application/Admins")
    counts = []
    for endorsements in network.endorsements:
        counts.append(len(endorsements))
        if len(endorsements) > 1:
            majority.evaluate(endorsements)
        else:
            with pytest.raises(PolicyNotSatisfied, match="requires 2 of the 'Endorsement'"):
                majority.evaluate(endorsements)
        with pytest.raises(PolicyNotSatisfied, match="/Channel/Application/Admins"):
            admins.evaluate(endorsements)
    assert sorted(counts) == [1] * 12 + [3] * 3
