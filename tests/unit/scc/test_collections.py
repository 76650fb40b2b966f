"""Private data collections as definitions make them: who may use them, what is read to know."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fabric_protos.codec import encode
from fabric_protos.lifecycle import StateData, StateMetadata
from fabric_protos.protos import ChaincodeData, CollectionConfig, CollectionConfigPackage
from fabric_protos.stream import ChaincodeInput
from peer.chaincode.transactions import Permissions, TransactionParams
from peer.endorser.proposal import prepare_proposal
from peer.errors import DefinitionNotUsable, LedgerError
from peer.ledger.api import CollectionPolicy
from peer.msp.identity import SigningIdentity
from peer.msp.policies import SignedData
from tests.unit.scc.channels import CHANNEL, Called, Site
from tests.unit.scc.test_lifecycle import FIELDS, collection, collections, define

NONE = Permissions(read=False, write=False)
ALL = Permissions(read=True, write=True)


class Use:
    """One simulation, in which collections are asked for."""

    def __init__(self, site: Site, by: SigningIdentity | None = None) -> None:
        proposal = prepare_proposal(by or site.user, CHANNEL, "cc", ChaincodeInput(), {})
        self._site = site
        self.simulator = site.channel.ledger.new_tx_simulator(proposal.tx_id)
        self.params = TransactionParams(
            channel_id=CHANNEL,
            tx_id=proposal.tx_id,
            namespace="cc",
            signed_proposal=proposal.signed,
            simulator=self.simulator,
        )

    def permissions(self, name: str) -> Permissions:
        return self._site.definitions.permissions(self.params, name)

    def reads(self) -> dict[str, dict[str, bool]]:
        results = self.simulator.get_tx_simulation_results()
        return Called(None, None, results).reads  # type: ignore[arg-type]  # there was no call


@contextmanager
def using(site: Site, by: SigningIdentity | None = None) -> Iterator[Use]:
    use = Use(site, by)
    try:
        yield use
    finally:
        use.simulator.done()


class TestPermissions:
    async def test_who_may_read_and_write(self, site: Site) -> None:
        config = collections(
            collection("open"),
            collection("read", member_only_read=True),
            collection("write", member_only_write=True),
            collection("both", member_only_read=True, member_only_write=True),
        )
        await define(site, collections=config)
        with using(site) as own, using(site, site.other_admin) as other:
            for name in ("open", "read", "write", "both", "_implicit_org_Org2MSP"):
                assert own.permissions(name) == ALL
            assert other.permissions("open") == ALL
            assert other.permissions("read") == Permissions(read=False, write=True)
            assert other.permissions("write") == Permissions(read=True, write=False)
            assert other.permissions("both") == NONE
            assert other.permissions("_implicit_org_Org1MSP") == ALL
            with pytest.raises(LedgerError) as caught:
                own.permissions("none")
            assert str(caught.value) == f"collection {CHANNEL}/cc/none could not be found"

    async def test_who_cannot_show_to_be_a_member_is_none(self, site: Site) -> None:
        await define(site, collections=collections(collection("c", member_only_read=True)))
        with using(site, SigningIdentity.self_signed("Org1MSP")) as use:
            assert use.permissions("c") == Permissions(read=False, write=True)

    async def test_what_is_read_of_a_definition(self, site: Site) -> None:
        await define(site, collections=collections(collection("c")))
        with using(site) as use:
            use.permissions("c")
            use.permissions("c")
            fields = {f"namespaces/fields/cc/{field}" for field in ("Sequence", *FIELDS)}
            expected = {"namespaces/metadata/cc", *fields}
            assert use.reads() == {"_lifecycle": dict.fromkeys(expected, True)}

    @pytest.mark.parametrize("is_defined", [True, False])
    async def test_what_is_read_of_a_legacy_definition(self, site: Site, is_defined: bool) -> None:
        package = collections(collection("c"))
        values = {"cc": encode(ChaincodeData(name="cc", version="1"))}
        await site.write("lscc", {**values, "cc~collection": encode(package)} if is_defined else {})
        with using(site) as use:
            if is_defined:
                assert use.permissions("c") == ALL
            for name in ("none", "_implicit_org_Org1MSP"):  # the latter are of the new lifecycle
                with pytest.raises(LedgerError, match=f"{name} could not be found"):
                    use.permissions(name)
            expected = {"cc": True, "cc~collection": True} if is_defined else {"cc": False}
            assert use.reads() == {
                "_lifecycle": {"namespaces/metadata/cc": False},
                "lscc": expected,
            }

    async def test_who_may_see_what_was_committed(self, site: Site) -> None:
        await define(site, collections=collections(collection("c", member_only_read=False)))
        knows = site.definitions.is_member

        def signed(by: SigningIdentity) -> SignedData:
            return SignedData(b"asked", by.creator, by.sign(b"asked"))

        own, other = signed(site.user), signed(site.other_admin)
        assert knows(CHANNEL, "cc", "c", own)
        assert not knows(CHANNEL, "cc", "c", other)
        assert not knows(CHANNEL, "cc", "c", own._replace(signature=other.signature))
        assert knows(CHANNEL, "cc", "_implicit_org_Org1MSP", own)
        assert not knows(CHANNEL, "cc", "_implicit_org_Org1MSP", other)
        assert knows(CHANNEL, "cc", "_implicit_org_Org2MSP", other)
        nobody = signed(SigningIdentity.self_signed("Org9MSP"))
        for name in ("c", "_implicit_org_Org9MSP", "none"):
            assert not knows(CHANNEL, "cc", name, nobody)
        assert not knows(CHANNEL, "nothing", "c", own)
        assert not knows("nowhere", "cc", "c", own)

    async def test_without_a_channel_there_are_none(self, site: Site) -> None:
        params = TransactionParams(channel_id="", tx_id="1", namespace="cc")
        with pytest.raises(LedgerError, match="no ledger context"):
            site.definitions.permissions(params, "c")


class TestPolicies:
    async def test_what_they_mean_for_this_peer(self, site: Site) -> None:
        config = collections(
            collection("mine", block_to_live=7),
            collection("theirs", "OR('Org2MSP.member')", block_to_live=9),
            collection("of_peers", "OR('Org1MSP.peer', 'Org2MSP.peer')"),
            collection("of_admins", "OR('Org1MSP.admin')"),
        )
        await define(site, collections=config)
        policy = site.definitions.policies(CHANNEL)
        assert policy("cc", "mine") == CollectionPolicy(7, is_member=True)
        assert policy("cc", "theirs") == CollectionPolicy(9, is_member=False)
        assert policy("cc", "of_peers") == CollectionPolicy(0, is_member=True)
        assert policy("cc", "of_admins") == CollectionPolicy(0, is_member=False)
        assert policy("any", "_implicit_org_Org1MSP") == CollectionPolicy(0, is_member=True)
        assert policy("any", "_implicit_org_Org2MSP") == CollectionPolicy(0, is_member=False)
        for name, unknown in (("cc", "none"), ("other", "mine")):
            assert policy(name, unknown) == CollectionPolicy(0, is_member=False)
        elsewhere = site.definitions.policies("elsewhere")
        assert elsewhere("cc", "mine") == CollectionPolicy(0, is_member=False)

    async def test_names_follow_the_definition(self, site: Site) -> None:
        names = site.definitions.collection_names(CHANNEL)
        assert names("cc") == frozenset()
        await define(site, collections=collections(collection("a")))
        assert names("cc") == {"a"}
        await define(site, 2, collections=collections(collection("a"), collection("b")))
        assert names("cc") == {"a", "b"}

    async def test_a_collection_of_a_kind_nobody_knows_is_none(self, site: Site) -> None:
        package = CollectionConfigPackage(config=[CollectionConfig()])
        await site.write(
            "lscc", {"cc": encode(ChaincodeData(name="cc")), "cc~collection": encode(package)}
        )
        assert site.definitions.collection_names(CHANNEL)("cc") == frozenset()


class TestDamage:
    async def test_a_definition_that_cannot_be_read(self, site: Site) -> None:
        metadata = StateMetadata(datatype="ChaincodeDefinition", fields=["Sequence", *FIELDS])
        await site.write(
            "_lifecycle",
            {
                "namespaces/metadata/cc": encode(metadata),
                "namespaces/fields/cc/Sequence": encode(StateData(string="one")),
            },
        )
        with using(site) as use, pytest.raises(LedgerError, match="of chaincode cc is no number"):
            site.definitions.endorsement_info(CHANNEL, "cc", use.simulator)

    async def test_an_older_snapshot_does_not_see_the_new_definition(self, site: Site) -> None:
        await define(site)
        with using(site) as old:
            await define(site, 2, version="2.0")
            with pytest.raises(DefinitionNotUsable) as caught:
                site.definitions.endorsement_info(CHANNEL, "cc", old.simulator)
            assert str(caught.value) == (
                "chaincode cache at sequence 2 but current sequence is 1, chaincode definition "
                "for 'cc' changed during invoke"
            )

    async def test_news_of_a_block_that_come_late_do_no_harm(
        self, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await define(site)
        assert site.definitions.deployed(CHANNEL, "cc") is not None
        monkeypatch.setattr(site.definitions, "on_commit", lambda *args: None)
        await define(site, 2, version="2.0")
        with (
            using(site) as use,
            pytest.raises(DefinitionNotUsable, match="chaincode is not installed"),
        ):
            site.definitions.endorsement_info(CHANNEL, "cc", use.simulator)
