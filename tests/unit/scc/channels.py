"""A channel of two organisations, the ledger of a peer of the first, and calls made on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from fabric_protos.codec import decode
from fabric_protos.common import Block, BlockData, BlockHeader, BlockMetadata
from fabric_protos.kvrwset import HashedRwSet, KvrwSet
from fabric_protos.protos import ProposalResponse
from fabric_protos.protos import Response as ResponseMessage
from fabric_protos.rwset import TxPvtReadWriteSet, TxReadWriteSet
from fabric_protos.stream import ChaincodeEvent, ChaincodeInput, Response
from peer.chaincode.transactions import TransactionParams
from peer.channel.channel import Channel
from peer.channel.configblock import bundle_of
from peer.channel.network import Network, NetworkOrganisation
from peer.endorser import endorsement
from peer.endorser.proposal import prepare_proposal
from peer.endorser.transaction import signed_transaction
from peer.ledger import open_ledger
from peer.ledger.api import Ledger, SimulationResults, ValidationCode
from peer.ledger.blocks import data_hash
from peer.lifecycle.definitions import Definitions
from peer.msp.directory import load_local
from peer.msp.identity import SigningIdentity
from peer.scc.access import AccessControl
from peer.scc.lifecycle import Lifecycle
from peer.scc.lscc import Lscc
from peer.scc.runner import SystemCall, SystemChaincode
from runtimes.api import Capabilities
from tests.fakes.runtime import FakeRuntime
from tests.unit.lifecycle.test_builds import registry

CHANNEL = "mychannel"


class Called(NamedTuple):
    """What came of one call."""

    response: Response
    event: ChaincodeEvent | None
    results: SimulationResults

    @property
    def reads(self) -> dict[str, dict[str, bool]]:
        """Public keys that were read and whether there was a value, by namespace."""
        return {
            name: {read.key: read.version is not None for read in rwset.reads}
            for name, rwset in self._public().items()
        }

    @property
    def writes(self) -> dict[str, dict[str, bytes]]:
        """Public values that were written, by namespace."""
        return {
            name: {write.key: write.value for write in rwset.writes}
            for name, rwset in self._public().items()
            if rwset.writes
        }

    @property
    def hashed_reads(self) -> dict[tuple[str, str], int]:
        """How many keys were read by their hash, by namespace and collection."""
        return {
            (each.namespace, collection.collection_name): len(
                decode(HashedRwSet, collection.hashed_rwset).hashed_reads
            )
            for each in decode(TxReadWriteSet, self.results.public).ns_rwset
            for collection in each.collection_hashed_rwset
        }

    @property
    def private_writes(self) -> dict[tuple[str, str], dict[str, bytes]]:
        """Private values that were written, by namespace and collection."""
        return {
            (each.namespace, collection.collection_name): {
                write.key: write.value for write in decode(KvrwSet, collection.rwset).writes
            }
            for each in decode(TxPvtReadWriteSet, self.results.private).ns_pvt_rwset
            for collection in each.collection_pvt_rwset
        }

    def _public(self) -> dict[str, KvrwSet]:
        sets = decode(TxReadWriteSet, self.results.public).ns_rwset
        return {each.namespace: decode(KvrwSet, each.rwset) for each in sets}


class Site:
    """A peer of the first organisation, joined to the channel of a network.

    Attributes:
        admin, user: of the peer's own organisation.
        lifecycle: as this peer has it.
        other: the same of the second organisation; what it writes comes here in blocks.
        lscc: as this peer has it.
    """

    def __init__(self, network: Network, ledger: Ledger, directory: Path) -> None:
        self.network = network
        own, other = network.organisations
        self.identity = load_local(own.nodes[0].msp, own.msp_id).identity
        self.admin, self.user = user_of(own, 0), user_of(own, 1)
        self.other_admin = user_of(other, 0)
        self.channel = Channel(ledger, bundle_of(CHANNEL, network.genesis_block()))
        self.packages = registry(
            directory, FakeRuntime(capabilities=Capabilities(image_build=True))
        )
        self.definitions = Definitions(
            channel=self.find, packages=self.packages, identity=self.identity
        )
        self.lifecycle = self._lifecycle(own)
        self.other = self._lifecycle(other)
        self.lscc = Lscc(access=self.access(own), channel=self.find, packages=self.packages)

    def access(self, organisation: NetworkOrganisation) -> AccessControl:
        local = load_local(organisation.nodes[0].msp, organisation.msp_id).msp
        return AccessControl(channel=self.find, local=local)

    def _lifecycle(self, organisation: NetworkOrganisation) -> Lifecycle:
        return Lifecycle(
            access=self.access(organisation),
            channel=self.find,
            channels=lambda: [CHANNEL],
            definitions=self.definitions,
            packages=self.packages,
            msp_id=organisation.msp_id,
        )

    def find(self, channel_id: str) -> Channel | None:
        return self.channel if channel_id == CHANNEL else None

    async def call(
        self,
        chaincode: SystemChaincode,
        *args: bytes | str,
        by: SigningIdentity | None = None,
        channel_id: str = CHANNEL,
        commits: bool = True,
    ) -> Called:
        """Call a system chaincode, as the organisation's administrator unless told otherwise."""
        arguments = [arg.encode() if isinstance(arg, str) else arg for arg in args]
        signer = by or self.admin
        proposal = prepare_proposal(
            signer, channel_id, chaincode.name, ChaincodeInput(args=arguments), {}
        )
        if not channel_id:
            params = TransactionParams(
                channel_id="",
                tx_id=proposal.tx_id,
                namespace=chaincode.name,
                signed_proposal=proposal.signed,
            )
            call = SystemCall(params=params, args=arguments)
            return Called(await chaincode.invoke(call), call.event, SimulationResults(b""))
        ledger = self.channel.ledger
        simulator = ledger.new_tx_simulator(proposal.tx_id)
        try:
            params = TransactionParams(
                channel_id=channel_id,
                tx_id=proposal.tx_id,
                namespace=chaincode.name,
                signed_proposal=proposal.signed,
                simulator=simulator,
            )
            call = SystemCall(params=params, args=arguments)
            response = await chaincode.invoke(call)
            results = simulator.get_tx_simulation_results()
        finally:
            simulator.done()
        if commits and response.status == 200:
            payload = endorsement.response_payload(
                b"hash",
                results=results.public,
                event=call.event,
                response=response,
                name=chaincode.name,
                version="syscc",
            )
            endorsed = ProposalResponse(
                response=endorsement.message_of(response),
                payload=payload,
                endorsement=endorsement.endorse(payload, self.identity),
            )
            envelope = signed_transaction(proposal.signed, [endorsed], signer)
            await self.commit(envelope, {0: results.private} if results.private else {})
        return Called(response, call.event, results)

    async def commit(self, envelope: bytes, private: Mapping[int, bytes]) -> None:
        """Commit a block of one transaction, whatever a validator would say."""
        ledger = self.channel.ledger
        info = ledger.blockchain_info()
        data = BlockData(data=[envelope])
        header = BlockHeader(
            number=info.height, previous_hash=info.current_block_hash, data_hash=data_hash(data)
        )
        block = Block(header=header, data=data, metadata=BlockMetadata(metadata=[b""] * 5))
        done = await ledger.commit(block, [ValidationCode.VALID], private)
        assert list(done.codes) == [ValidationCode.VALID]
        self.definitions.on_commit(CHANNEL, done)

    async def write(self, namespace: str, values: Mapping[str, bytes]) -> None:
        """Commit values of any namespace."""
        proposal = prepare_proposal(self.user, CHANNEL, namespace, ChaincodeInput(), {})
        simulator = self.channel.ledger.new_tx_simulator(proposal.tx_id)
        for key, value in values.items():
            simulator.set_state(namespace, key, value)
        results = simulator.get_tx_simulation_results()
        payload = endorsement.response_payload(
            b"hash",
            results=results.public,
            event=None,
            response=Response(status=200),
            name=namespace,
            version="1",
        )
        endorsed = ProposalResponse(
            response=ResponseMessage(status=200),
            payload=payload,
            endorsement=endorsement.endorse(payload, self.identity),
        )
        await self.commit(signed_transaction(proposal.signed, [endorsed], self.user), {})


@asynccontextmanager
async def open_site(network: Network, directory: Path) -> AsyncIterator[Site]:
    """Hold a peer of the first organisation."""
    sites: list[Site] = []
    async with open_ledger(
        directory / "ledgers",
        CHANNEL,
        collections=lambda name: sites[0].definitions.collection_names(CHANNEL)(name),
        policies=lambda *where: sites[0].definitions.policies(CHANNEL)(*where),
    ) as ledger:
        await ledger.commit(network.genesis_block(), [ValidationCode.VALID])
        sites.append(Site(network, ledger, directory))
        yield sites[0]


def user_of(organisation: NetworkOrganisation, index: int) -> SigningIdentity:
    """Return a user's identity; the first is the administrator."""
    return load_local(organisation.users[index].msp, organisation.msp_id).identity
