"""A peer of Org1 on a channel of two organisations, with a chaincode that does as it is told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import pytest

from fabric_protos.stream import (
    ChaincodeEvent,
    ChaincodeInput,
    Response,
    SignedProposal,
)
from peer.chaincode.support import ChaincodeSupport, EndorsementInfo, Execution
from peer.chaincode.transactions import Permissions, TransactionParams
from peer.endorser.endorser import Endorser
from peer.endorser.proposal import PreparedProposal, prepare_proposal
from peer.errors import PeerError
from peer.ledger.api import TxSimulator
from peer.lifecycle.state import LIFECYCLE, field_key
from peer.metrics import EndorserMeters, Registry
from peer.msp.directory import load_config
from peer.msp.identity import SigningIdentity
from peer.msp.msp import Msp, MspVersion
from tests.unit.channel.networks import Scene
from tests.unit.validation.conftest import bare as bare
from tests.unit.validation.conftest import scene as scene
from tests.unit.validation.conftest import world as world
from tests.unit.validation.forging import CC, CHANNEL, VERSION, World


async def nothing(params: TransactionParams) -> None:
    """Let nothing happen."""


@dataclass
class Script(ChaincodeSupport):
    """Runs a function instead of a chaincode.

    Attributes:
        does: what a chaincode does with its execution before it answers.
        meanwhile: what else happens before it answers.
        answer, event: what it answers.
        fails: what keeps it from answering.
        calls: the executions there were, by the name that was called.
        inits: name and version of the chaincodes whose Init ran.
    """

    does: Callable[[TransactionParams], None] = lambda params: None
    meanwhile: Callable[[TransactionParams], Awaitable[None]] = nothing
    answer: Response = field(default_factory=lambda: Response(status=200, payload=b"done"))
    event: ChaincodeEvent | None = None
    fails: PeerError | None = None
    calls: list[tuple[str, TransactionParams, ChaincodeInput]] = field(default_factory=list)
    inits: list[tuple[str, str]] = field(default_factory=list)

    def is_system(self, name: str) -> bool:
        return name in {"cscc", "qscc", "lscc", LIFECYCLE}

    async def execute(
        self,
        params: TransactionParams,
        name: str,
        payload: ChaincodeInput,
        info: EndorsementInfo | None = None,
    ) -> Execution:
        self.calls.append((name, params, payload))
        if self.fails is not None:
            raise self.fails
        self.does(params)
        await self.meanwhile(params)
        return Execution(self.answer, self.event)

    async def execute_legacy_init(
        self, params: TransactionParams, name: str, version: str, payload: ChaincodeInput
    ) -> Execution:
        self.inits.append((name, version))
        return await self.execute(params, name, payload)


class Definitions:
    """Reads the sequence of a definition as the real ones do, and knows one version."""

    fails: PeerError | None = None
    plugin = "escc"

    def endorsement_info(
        self, channel_id: str, name: str, simulator: TxSimulator | None
    ) -> EndorsementInfo:
        assert simulator is not None
        simulator.get_state(LIFECYCLE, field_key("namespaces", name, "Sequence"))
        if self.fails is not None:
            raise self.fails
        return EndorsementInfo(VERSION, "label:0", init_required=False, plugin=self.plugin)


class Collections:
    """Lets everybody do everything."""

    def permissions(self, params: TransactionParams, collection: str) -> Permissions:
        return Permissions(read=True, write=True)


@dataclass
class Desk:
    """An endorser and all that stands around it."""

    world: World
    script: Script
    definitions: Definitions
    endorser: Endorser
    counted: Registry

    @property
    def client(self) -> SigningIdentity:
        return self.world.scene.user(0)

    def propose(
        self,
        *args: bytes,
        channel_id: str = CHANNEL,
        name: str = CC,
        client: SigningIdentity | None = None,
    ) -> PreparedProposal:
        """Return a proposal as clients make them."""
        called = ChaincodeInput(args=list(args))
        return prepare_proposal(client or self.client, channel_id, name, called, {})

    def signed(
        self,
        *args: bytes,
        channel_id: str = CHANNEL,
        name: str = CC,
        client: SigningIdentity | None = None,
    ) -> SignedProposal:
        """Return the same, as it travels."""
        return self.propose(*args, channel_id=channel_id, name=name, client=client).signed


def writing(keys: Sequence[str], namespace: str = CC) -> Callable[[TransactionParams], None]:
    """Return what a chaincode does that writes keys."""

    def write(params: TransactionParams) -> None:
        assert params.simulator is not None
        for key in keys:
            params.simulator.set_state(namespace, key, b"v")

    return write


@pytest.fixture
def desk(world: World, scene: Scene) -> Desk:
    organisation = scene.network.organisations[0]
    local = load_config(organisation.nodes[0].msp, organisation.msp_id)
    script, definitions, counted = Script(), Definitions(), Registry()
    endorser = Endorser(
        chaincode=script,
        channel={CHANNEL: world.channel}.get,
        definitions=definitions,
        collections=Collections(),
        local=Msp(local, version=MspVersion.V1_4_3),
        signer=scene.peer(0),
        meters=EndorserMeters(counted),
    )
    return Desk(world, script, definitions, endorser, counted)
