"""_lifecycle: from a package to a definition that two organisations agreed on."""

from __future__ import annotations

from typing import Any

import betterproto2
import pytest

from fabric_protos.codec import decode, encode
from fabric_protos.common import SignaturePolicyEnvelope
from fabric_protos.lifecycle import (
    ApproveChaincodeDefinitionForMyOrgArgs,
    ChaincodeEndorsementInfo,
    ChaincodeSource,
    ChaincodeSourceLocal,
    ChaincodeValidationInfo,
    CheckCommitReadinessArgs,
    CheckCommitReadinessResult,
    CommitChaincodeDefinitionArgs,
    GetInstalledChaincodePackageArgs,
    GetInstalledChaincodePackageResult,
    InstallChaincodeArgs,
    InstallChaincodeResult,
    QueryApprovedChaincodeDefinitionArgs,
    QueryApprovedChaincodeDefinitionResult,
    QueryApprovedChaincodeDefinitionsArgs,
    QueryApprovedChaincodeDefinitionsResult,
    QueryChaincodeDefinitionArgs,
    QueryChaincodeDefinitionResult,
    QueryChaincodeDefinitionsArgs,
    QueryChaincodeDefinitionsResult,
    QueryInstalledChaincodeArgs,
    QueryInstalledChaincodeResult,
    QueryInstalledChaincodesArgs,
    QueryInstalledChaincodesResult,
    StateData,
    StateMetadata,
)
from fabric_protos.protos import (
    ApplicationPolicy,
    CollectionConfig,
    CollectionConfigPackage,
    CollectionPolicyConfig,
    StaticCollectionConfig,
)
from peer.chaincode.support import EndorsementInfo
from peer.errors import DefinitionNotUsable, UnknownChaincode
from peer.msp.dsl import parse_policy
from peer.scc.lifecycle import Lifecycle
from tests.unit.lifecycle.archives import package
from tests.unit.lifecycle.test_builds import PYTHON
from tests.unit.scc.channels import CHANNEL, Called, Site

PACKAGE = package(PYTHON, label="cc_1")
FAILED = "failed to invoke backing implementation of "
INVALID = "error validating chaincode definition: "
OWN, OTHER = "_implicit_org_Org1MSP", "_implicit_org_Org2MSP"
POLICY = encode(
    ApplicationPolicy(channel_config_policy_reference="/Channel/Application/Endorsement")
)
FIELDS = ["EndorsementInfo", "ValidationInfo", "Collections"]


async def call(
    site: Site, arguments: betterproto2.Message, chaincode: Lifecycle | None = None, **more: Any
) -> Called:
    function = type(arguments).__name__.removesuffix("Args")
    return await site.call(chaincode or site.lifecycle, function, encode(arguments), **more)


async def install(site: Site) -> str:
    called = await call(
        site, InstallChaincodeArgs(chaincode_install_package=PACKAGE), channel_id=""
    )
    assert called.response.status == 200, called.response
    return decode(InstallChaincodeResult, called.response.payload).package_id


async def approve(site: Site, sequence: int = 1, *, package_id: str = "", **more: Any) -> Called:
    arguments: dict[str, Any] = {"name": "cc", "version": "1.0", "sequence": sequence, **more}
    if package_id:
        arguments["source"] = ChaincodeSource(
            local_package=ChaincodeSourceLocal(package_id=package_id)
        )
    return await call(site, ApproveChaincodeDefinitionForMyOrgArgs(**arguments))


async def approve_elsewhere(site: Site, sequence: int = 1, **more: Any) -> Called:
    arguments = {"name": "cc", "version": "1.0", "sequence": sequence, **more}
    called = await call(
        site,
        ApproveChaincodeDefinitionForMyOrgArgs(**arguments),
        site.other,
        by=site.other_admin,
    )
    assert called.response.status == 200, called.response
    return called


async def commit(site: Site, sequence: int = 1, **more: Any) -> Called:
    arguments = {"name": "cc", "version": "1.0", "sequence": sequence, **more}
    return await call(site, CommitChaincodeDefinitionArgs(**arguments), by=site.user)


async def define(site: Site, sequence: int = 1, **more: Any) -> None:
    for called in (
        await approve(site, sequence, **more),
        await approve_elsewhere(site, sequence, **without_package(more)),
        await commit(site, sequence, **without_package(more)),
    ):
        assert called.response.status == 200, called.response


def without_package(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name != "package_id"}


def collection(name: str = "secrets", policy: str = "OR('Org1MSP.member')", **more: Any) -> Any:
    members = CollectionPolicyConfig(signature_policy=parse_policy(policy))
    static = StaticCollectionConfig(name=name, member_orgs_policy=members, **more)
    return CollectionConfig(static_collection_config=static)


def collections(*configs: Any) -> CollectionConfigPackage:
    return CollectionConfigPackage(config=list(configs))


def bytes_of(content: bytes) -> bytes:
    return encode(StateData(bytes=content))


def info(site: Site, name: str = "cc") -> EndorsementInfo:
    simulator = site.channel.ledger.new_tx_simulator("tx")
    try:
        return site.definitions.endorsement_info(CHANNEL, name, simulator)
    finally:
        simulator.done()


class TestFlow:
    async def test_an_approval_writes_the_organisations_own_state(self, site: Site) -> None:
        called = await approve(site, package_id="cc_1:77", init_required=True)
        assert called.reads == {
            "_lifecycle": {"namespaces/fields/cc/Sequence": False, "namespaces/metadata/cc": False},
            "lscc": {"cc": False},
        }
        assert called.writes == {}
        assert called.hashed_reads == {("_lifecycle", OWN): 2}
        endorsement = ChaincodeEndorsementInfo(
            version="1.0", init_required=True, endorsement_plugin="escc"
        )
        validation = ChaincodeValidationInfo(validation_plugin="vscc", validation_parameter=POLICY)
        local = StateMetadata(datatype="ChaincodeLocalPackage", fields=["PackageID"])
        assert called.private_writes == {
            ("_lifecycle", OWN): {
                "chaincode-sources/fields/cc#1/PackageID": b"\x1a\x07cc_1:77",
                "chaincode-sources/metadata/cc#1": encode(local),
                "namespaces/fields/cc#1/Collections": b"\x12\x00",
                "namespaces/fields/cc#1/EndorsementInfo": bytes_of(encode(endorsement)),
                "namespaces/fields/cc#1/ValidationInfo": bytes_of(encode(validation)),
                "namespaces/metadata/cc#1": encode(
                    StateMetadata(datatype="ChaincodeParameters", fields=FIELDS)
                ),
            }
        }

    async def test_a_commit_reads_what_everybody_approved(self, site: Site) -> None:
        await approve(site)
        await approve_elsewhere(site)
        called = await commit(site)
        assert called.response.status == 200
        assert called.response.payload == b""
        assert called.reads == {
            "_lifecycle": {"namespaces/fields/cc/Sequence": False, "namespaces/metadata/cc": False},
            "lscc": {"cc": False},
        }
        assert called.hashed_reads == {("_lifecycle", OWN): 4, ("_lifecycle", OTHER): 4}
        assert called.private_writes == {}
        written = called.writes["_lifecycle"]
        assert written["namespaces/fields/cc/Sequence"] == b"\x08\x01"
        assert written["namespaces/fields/cc/Collections"] == b"\x12\x00"
        assert decode(StateMetadata, written["namespaces/metadata/cc"]) == StateMetadata(
            datatype="ChaincodeDefinition", fields=["Sequence", *FIELDS]
        )
        assert sorted(written) == [
            "namespaces/fields/cc/Collections",
            "namespaces/fields/cc/EndorsementInfo",
            "namespaces/fields/cc/Sequence",
            "namespaces/fields/cc/ValidationInfo",
            "namespaces/metadata/cc",
        ]

    async def test_the_next_sequence_writes_only_what_changed(self, site: Site) -> None:
        await define(site)
        config = collections(collection())
        await approve(site, 2, version="2.0", collections=config)
        await approve_elsewhere(site, 2, version="2.0", collections=config)
        called = await commit(site, 2, version="2.0", collections=config)
        assert sorted(called.writes["_lifecycle"]) == [
            "namespaces/fields/cc/Collections",
            "namespaces/fields/cc/EndorsementInfo",
            "namespaces/fields/cc/Sequence",
        ]
        assert called.reads == {
            "_lifecycle": {
                **dict.fromkeys((f"namespaces/fields/cc/{field}" for field in FIELDS), True),
                "namespaces/fields/cc/Sequence": True,
                "namespaces/metadata/cc": True,
            }
        }
        assert site.definitions.collection_names(CHANNEL)("cc") == {"secrets"}

    async def test_it_can_be_run_once_it_is_committed_and_installed(self, site: Site) -> None:
        with pytest.raises(UnknownChaincode, match=r"^chaincode cc not found"):
            info(site)
        ccid = await install(site)
        await approve(site, package_id=ccid, init_required=True)
        await approve_elsewhere(site, init_required=True)
        with pytest.raises(UnknownChaincode):
            info(site)
        await commit(site, init_required=True)
        assert info(site) == EndorsementInfo("1.0", ccid, True)
        await approve(site, 2, version="2.0", package_id=ccid)
        await approve_elsewhere(site, 2, version="2.0")
        assert info(site).version == "1.0"
        await commit(site, 2, version="2.0")
        assert info(site) == EndorsementInfo("2.0", ccid, False)

    async def test_another_package_for_the_same_definition(self, site: Site) -> None:
        await define(site, package_id="gone:1")
        with pytest.raises(DefinitionNotUsable) as caught:
            info(site)
        assert str(caught.value) == (
            "chaincode definition for 'cc' exists, but chaincode is not installed"
        )
        ccid = await install(site)
        called = await approve(site, package_id=ccid)
        assert list(called.private_writes["_lifecycle", OWN]) == [
            "chaincode-sources/fields/cc#1/PackageID"
        ]
        assert info(site).ccid == ccid

    async def test_what_the_own_organisation_has_not_approved(self, site: Site) -> None:
        await approve_elsewhere(site)
        called = await call(
            site,
            CommitChaincodeDefinitionArgs(name="cc", version="1.0", sequence=1),
            site.other,
            by=site.other_admin,
        )
        assert called.response.status == 200
        with pytest.raises(DefinitionNotUsable) as caught:
            info(site)
        assert str(caught.value) == (
            f"chaincode definition for 'cc' at sequence 1 on channel '{CHANNEL}' has not yet been "
            "approved by this org"
        )

    async def test_readiness(self, site: Site) -> None:
        async def ready(version: str = "1.0") -> dict[str, bool]:
            arguments = CheckCommitReadinessArgs(name="cc", version=version, sequence=1)
            called = await call(site, arguments, by=site.user, commits=False)
            return decode(CheckCommitReadinessResult, called.response.payload).approvals

        assert await ready() == {"Org1MSP": False, "Org2MSP": False}
        await approve_elsewhere(site)
        assert await ready() == {"Org1MSP": False, "Org2MSP": True}
        await approve(site)
        assert await ready() == {"Org1MSP": True, "Org2MSP": True}
        assert await ready("1.1") == {"Org1MSP": False, "Org2MSP": False}


class TestQueries:
    async def test_definitions(self, site: Site) -> None:
        await define(site, package_id="cc_1:77", collections=collections(collection()))
        await define(site, name="another", validation_parameter=b"\x12\x01x")
        called = await call(site, QueryChaincodeDefinitionArgs(name="cc"), by=site.user)
        found = decode(QueryChaincodeDefinitionResult, called.response.payload)
        assert (found.sequence, found.version, found.init_required) == (1, "1.0", False)
        assert (found.endorsement_plugin, found.validation_plugin) == ("escc", "vscc")
        assert found.validation_parameter == POLICY
        assert found.collections == collections(collection())
        assert found.approvals == {"Org1MSP": True, "Org2MSP": True}
        called = await call(site, QueryChaincodeDefinitionsArgs(), by=site.user)
        definitions = decode(QueryChaincodeDefinitionsResult, called.response.payload)
        assert [
            (each.name, each.sequence, each.version) for each in definitions.chaincode_definitions
        ] == [("another", 1, "1.0"), ("cc", 1, "1.0")]
        assert definitions.chaincode_definitions[0].validation_parameter == b"\x12\x01x"

    async def test_what_is_not_defined(self, site: Site) -> None:
        called = await call(site, QueryChaincodeDefinitionArgs(name="cc"), by=site.user)
        assert called.response.status == 404
        assert called.response.message == "namespace cc is not defined"
        called = await call(site, QueryApprovedChaincodeDefinitionArgs(name="cc"))
        assert called.response.status == 404
        called = await call(site, QueryChaincodeDefinitionsArgs(), by=site.user)
        assert (called.response.status, called.response.payload) == (200, b"")

    async def test_approved_definitions(self, site: Site) -> None:
        async def approved(sequence: int = 0) -> QueryApprovedChaincodeDefinitionResult:
            arguments = QueryApprovedChaincodeDefinitionArgs(name="cc", sequence=sequence)
            called = await call(site, arguments)
            assert called.response.status == 200, called.response
            return decode(QueryApprovedChaincodeDefinitionResult, called.response.payload)

        await approve(site, package_id="cc_1:77")
        found = await approved()
        assert (found.sequence, found.version) == (1, "1.0")
        assert found.source is not None
        assert found.source.local_package == ChaincodeSourceLocal(package_id="cc_1:77")
        await approve_elsewhere(site)
        await commit(site)
        assert (await approved()).sequence == 1
        await approve(site, 2, version="2.0", init_required=True)
        found = await approved()
        assert (found.sequence, found.version, found.init_required) == (2, "2.0", True)
        assert found.source is not None
        assert found.source.unavailable is not None
        assert (await approved(1)).version == "1.0"

    async def test_all_approved_definitions(self, site: Site) -> None:
        await define(site, package_id="cc_1:77")
        await approve(site, 2, version="2.0")
        await approve(site, name="another")
        called = await call(site, QueryApprovedChaincodeDefinitionsArgs(), commits=False)
        found = decode(QueryApprovedChaincodeDefinitionsResult, called.response.payload)
        assert [
            (each.name, each.sequence, each.version, each.source and each.source.local_package)
            for each in found.approved_chaincode_definitions
        ] == [
            ("another", 1, "1.0", None),
            ("cc", 1, "1.0", ChaincodeSourceLocal(package_id="cc_1:77")),
            ("cc", 2, "2.0", None),
        ]

    async def test_packages(self, site: Site) -> None:
        ccid = await install(site)
        await define(site, package_id=ccid)
        called = await call(site, QueryInstalledChaincodesArgs(), channel_id="")
        [one] = decode(QueryInstalledChaincodesResult, called.response.payload).installed_chaincodes
        assert (one.package_id, one.label) == (ccid, "cc_1")
        [chaincode] = one.references[CHANNEL].chaincodes
        assert (chaincode.name, chaincode.version) == ("cc", "1.0")
        called = await call(site, QueryInstalledChaincodeArgs(package_id=ccid), channel_id="")
        found = decode(QueryInstalledChaincodeResult, called.response.payload)
        assert found.references[CHANNEL].chaincodes[0].name == "cc"
        called = await call(site, GetInstalledChaincodePackageArgs(package_id=ccid), channel_id="")
        content = decode(GetInstalledChaincodePackageResult, called.response.payload)
        assert content.chaincode_install_package == PACKAGE

    async def test_packages_that_are_not_there(self, site: Site) -> None:
        for arguments in (
            QueryInstalledChaincodeArgs(package_id="x:1"),
            GetInstalledChaincodePackageArgs(package_id="x:1"),
        ):
            called = await call(site, arguments, channel_id="")
            assert called.response.status == 404
            assert called.response.message == "chaincode install package 'x:1' not found"


class TestRefusals:
    async def refused(self, called: Called) -> str:
        assert called.response.status == 500, called.response
        assert called.results.private == b""
        assert called.writes == {}
        return called.response.message

    async def test_arguments(self, site: Site) -> None:
        for args, text in (
            ([], "lifecycle scc operations require exactly two arguments but received 0"),
            (
                ["CommitChaincodeDefinition"],
                "lifecycle scc operations require exactly two arguments but received 1",
            ),
            (
                ["Unknown", b""],
                (
                    "Failed to authorize invocation due to failed ACL check: "
                    "Unmapped policy for _lifecycle/Unknown"
                ),
            ),
        ):
            assert await self.refused(await site.call(site.lifecycle, *args)) == text
        text = await self.refused(
            await site.call(site.lifecycle, "CommitChaincodeDefinition", b"\xff")
        )
        assert text.startswith(f"{FAILED}'CommitChaincodeDefinition': ")

    async def test_a_channel_of_the_old_lifecycle(self, legacy_site: Site) -> None:
        called = await approve(legacy_site)
        assert await self.refused(called) == (
            f"cannot use new lifecycle for channel '{CHANNEL}' as it does not have the required "
            "capabilities enabled"
        )

    async def test_no_channel(self, site: Site) -> None:
        arguments = ApproveChaincodeDefinitionForMyOrgArgs(name="cc", version="1", sequence=1)
        called = await call(site, arguments, channel_id="")
        assert called.response.status == 500
        assert "could not get channelconfig for channel ''" in called.response.message

    async def test_the_administrator_of_the_peer_is_asked_for(self, site: Site) -> None:
        arguments = ApproveChaincodeDefinitionForMyOrgArgs(name="cc", version="1.0", sequence=1)
        prefix = "Failed to authorize invocation due to failed ACL check: Failed "
        during = "during channelless check policy with policy [Admins]: ["
        text = await self.refused(await call(site, arguments, by=site.user))
        assert text.startswith(
            f"{prefix}verifying that proposal's creator satisfies local MSP principal {during}"
        )
        text = await self.refused(await call(site, arguments, by=site.other_admin))
        assert text.startswith(f"{prefix}deserializing proposal creator {during}")

    async def test_the_channels_writers_are_asked_for(self, site: Site) -> None:
        stranger = type(site.user).self_signed("Org1MSP")
        called = await call(site, QueryChaincodeDefinitionArgs(name="cc"), by=stranger)
        assert (await self.refused(called)).startswith(
            "Failed to authorize invocation due to failed ACL check: Failed evaluating policy on "
            f"signed data during check policy on channel [{CHANNEL}] with policy "
            "[/Channel/Application/Writers]: ["
        )

    async def test_a_signature_of_something_else(self, site: Site) -> None:
        class Forger:
            creator = site.admin.creator

            def sign(self, data: bytes) -> bytes:
                return site.admin.sign(b"something else")

        forger: Any = Forger()
        arguments = ApproveChaincodeDefinitionForMyOrgArgs(name="cc", version="1.0", sequence=1)
        assert "Failed verifying proposal signature" in await self.refused(
            await call(site, arguments, by=forger)
        )

    @pytest.mark.parametrize(
        ("sequence", "text"),
        [
            (0, "requested sequence is 0, but first definable sequence number is 1"),
            (-1, "currently defined sequence 0 is larger than requested sequence -1"),
            (2, "requested sequence 2 is larger than the next available sequence number 1"),
        ],
    )
    async def test_sequences_to_approve(self, site: Site, sequence: int, text: str) -> None:
        prefix = f"{FAILED}'ApproveChaincodeDefinitionForMyOrg': "
        assert await self.refused(await approve(site, sequence)) == prefix + text

    async def test_sequences_to_commit(self, site: Site) -> None:
        prefix = f"{FAILED}'CommitChaincodeDefinition': "
        assert await self.refused(await commit(site, 2)) == (
            f"{prefix}requested sequence is 2, but new definition must be sequence 1"
        )

    async def test_approving_again(self, site: Site) -> None:
        prefix = f"{FAILED}'ApproveChaincodeDefinitionForMyOrg': attempted to redefine "
        await approve(site, package_id="a:1")
        assert await self.refused(await approve(site, package_id="a:1")) == (
            f"{prefix}uncommitted sequence (1) for namespace cc with unchanged content"
        )
        assert (await approve(site, package_id="a:2")).response.status == 200
        assert (await approve(site, package_id="a:2", version="1.1")).response.status == 200
        assert (await approve(site, package_id="a:2")).response.status == 200
        await approve_elsewhere(site)
        await commit(site)
        assert await self.refused(await approve(site, package_id="a:2", version="2")) == (
            f"{prefix}the current committed sequence (1) for namespace cc with different parameters"
        )
        assert (await approve(site, package_id="a:2")).response.status == 200

    async def test_committing_what_the_own_organisation_has_not_approved(self, site: Site) -> None:
        await approve_elsewhere(site)
        assert await self.refused(await commit(site)) == (
            f"{FAILED}'CommitChaincodeDefinition': chaincode definition not agreed to by this org "
            "(Org1MSP)"
        )

    async def test_packages(self, site: Site) -> None:
        prefix = f"{FAILED}'InstallChaincode': "
        ccid = await install(site)
        for data, text in (
            (PACKAGE, f"chaincode already successfully installed (package ID '{ccid}')"),
            (b"no archive", "could not parse as a chaincode install package"),
        ):
            called = await call(
                site, InstallChaincodeArgs(chaincode_install_package=data), channel_id=""
            )
            assert await self.refused(called) == prefix + text

    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            ({"name": "a__b"}, "invalid chaincode name 'a__b'"),
            ({"name": "lscc"}, "chaincode name 'lscc' is "),
            ({"version": "a/b"}, "invalid chaincode version 'a/b'"),
            (
                {"collections": collections(CollectionConfig())},
                "unknown collection configuration type",
            ),
            ({"collections": collections(collection("_x"))}, "collection name: '_x' not allowed"),
            ({"collections": collections(collection(""))}, "collection name: '' not allowed"),
            (
                {"collections": collections(collection("a"), collection("a"))},
                "collection-name: a -- found duplicate in collection configuration",
            ),
            (
                {"collections": collections(collection("a", required_peer_count=2))},
                (
                    "collection-name: a -- maximum peer count (0) cannot be less than the required "
                    "peer count (2)"
                ),
            ),
            (
                {
                    "collections": collections(
                        collection("a", required_peer_count=-1, maximum_peer_count=0)
                    )
                },
                "collection-name: a -- requiredPeerCount (-1) cannot be less than zero",
            ),
            (
                {"collections": collections(collection("a", "OR('Org9MSP.member')"))},
                "collection-name: a -- collection member 'Org9MSP' is not part of the channel",
            ),
            (
                {
                    "collections": collections(
                        collection("a", "AND('Org1MSP.member', 'Org2MSP.member')")
                    )
                },
                (
                    "collection-name: a -- error in member org policy: signature policy is not "
                    "an OR concatenation, NOutOf 2"
                ),
            ),
        ],
    )
    async def test_what_cannot_be_defined(
        self, site: Site, arguments: dict[str, Any], text: str
    ) -> None:
        for function, called in (
            ("ApproveChaincodeDefinitionForMyOrg", await approve(site, **arguments)),
            ("CommitChaincodeDefinition", await commit(site, **arguments)),
        ):
            message = await self.refused(called)
            assert message.startswith(f"{FAILED}'{function}': {INVALID}{text}")

    @pytest.mark.parametrize(
        "policy",
        [None, CollectionPolicyConfig(), CollectionPolicyConfig(SignaturePolicyEnvelope())],
    )
    async def test_a_collection_without_members(
        self, site: Site, policy: CollectionPolicyConfig | None
    ) -> None:
        static = StaticCollectionConfig(name="a", member_orgs_policy=policy)
        config = collections(CollectionConfig(static_collection_config=static))
        assert "collection-name: a -- error in member org policy" in await self.refused(
            await approve(site, collections=config)
        )

    async def test_collections_stay(self, site: Site) -> None:
        await define(site, collections=collections(collection("a", block_to_live=3)))
        for config, text in (
            (collections(), "existing collection [a] missing in the proposed collection"),
            (
                collections(collection("a")),
                "the BlockToLive in an existing collection [a] modified. Existing value [3]",
            ),
        ):
            assert INVALID + text in await self.refused(
                await approve(site, 2, version="2", collections=config)
            )
        kept = collections(collection("a", block_to_live=3), collection("b"))
        assert (await approve(site, 2, collections=kept)).response.status == 200
