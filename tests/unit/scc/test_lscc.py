"""lscc: install, deploy, upgrade and all the questions."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest

from fabric_protos.codec import decode, encode
from fabric_protos.common import (
    ChannelHeader,
    Envelope,
    Header,
    HeaderType,
    MspPrincipal,
    MspPrincipalClassification,
    Payload,
    SignaturePolicy,
    SignaturePolicyEnvelope,
)
from fabric_protos.protos import (
    CdsData,
    ChaincodeData,
    ChaincodeDeploymentSpec,
    ChaincodeId,
    ChaincodeQueryResponse,
    ChaincodeSpec,
    ChaincodeSpecType,
    CollectionConfig,
    CollectionConfigPackage,
    CollectionPolicyConfig,
    Endorsement,
    LifecycleEvent,
    SignedChaincodeDeploymentSpec,
    StaticCollectionConfig,
)
from peer.chaincode.support import EndorsementInfo
from peer.errors import DefinitionNotUsable, PeerError, UnknownChaincode
from peer.msp import standard
from peer.msp.dsl import parse_policy
from peer.msp.identity import SigningIdentity
from tests.unit.lifecycle.archives import files
from tests.unit.scc.channels import CHANNEL, Called, Site

MEMBERS = encode(standard.signed_by_any(standard.Role.MEMBER, ["Org1MSP", "Org2MSP"]))
ADMINS = encode(standard.signed_by_any(standard.Role.ADMIN, ["Org1MSP", "Org2MSP"]))
NODE = files({"src/package.json": b"{}"})
CODE = sha256(NODE).digest()


def spec(version: str = "1.0", *, name: str = "cc", code: bytes = NODE) -> bytes:
    identity = ChaincodeId(name=name, version=version, path="some/where")
    return encode(
        ChaincodeDeploymentSpec(
            chaincode_spec=ChaincodeSpec(type=ChaincodeSpecType.NODE, chaincode_id=identity),
            code_package=code,
        )
    )


def signed(policy: bytes, version: str = "1.0") -> bytes:
    owned = SignedChaincodeDeploymentSpec(
        chaincode_deployment_spec=spec(version),
        instantiation_policy=policy,
        owner_endorsements=[Endorsement(endorser=b"one"), Endorsement(endorser=b"two")],
    )
    header = Header(channel_header=encode(ChannelHeader(type=HeaderType.CHAINCODE_PACKAGE)))
    return encode(Envelope(payload=encode(Payload(header=header, data=encode(owned)))))


def collections(policy: SignaturePolicyEnvelope | None = None, **more: Any) -> bytes:
    members = CollectionPolicyConfig(
        signature_policy=policy or parse_policy("OR('Org1MSP.member')")
    )
    static = StaticCollectionConfig(name="secrets", member_orgs_policy=members, **more)
    return encode(
        CollectionConfigPackage(config=[CollectionConfig(static_collection_config=static)])
    )


async def install(site: Site, data: bytes) -> None:
    called = await site.call(site.lscc, "install", data, channel_id="")
    assert called.response.payload == b"OK"


async def deploy(
    site: Site,
    version: str = "1.0",
    *more: bytes,
    function: str = "deploy",
    by: SigningIdentity | None = None,
) -> Called:
    return await site.call(site.lscc, function, CHANNEL, spec(version, code=b""), *more, by=by)


async def upgrade(site: Site, version: str = "2.0", *more: bytes, **options: Any) -> Called:
    return await deploy(site, version, *more, function="upgrade", **options)


async def refused(site: Site, *args: bytes | str, **options: Any) -> str:
    with pytest.raises(PeerError) as caught:
        await site.call(site.lscc, *args, **options)
    return str(caught.value)


def info(site: Site) -> EndorsementInfo:
    simulator = site.channel.ledger.new_tx_simulator("tx")
    try:
        return site.definitions.endorsement_info(CHANNEL, "cc", simulator)
    finally:
        simulator.done()


class TestDeploying:
    async def test_a_deployment(self, legacy_site: Site) -> None:
        await install(legacy_site, spec())
        called = await deploy(legacy_site)
        metadata = sha256(b"cc1.0").digest()
        data = decode(ChaincodeData, called.response.payload)
        assert data == ChaincodeData(
            name="cc",
            version="1.0",
            escc="escc",
            vscc="vscc",
            policy=decode(SignaturePolicyEnvelope, MEMBERS),
            data=encode(CdsData(hash=CODE, metadatahash=metadata)),
            id=sha256(CODE + metadata).digest(),
            instantiation_policy=decode(SignaturePolicyEnvelope, ADMINS),
        )
        assert encode(data) == called.response.payload
        assert called.reads == {"lscc": {"cc": False}}
        assert called.writes == {"lscc": {"cc": called.response.payload}}
        assert called.event is None
        assert info(legacy_site) == EndorsementInfo("1.0", "cc:1.0", False)

    async def test_what_is_asked_for_is_written_as_it_came(self, legacy_site: Site) -> None:
        await install(legacy_site, spec())
        policy = encode(parse_policy("AND('Org1MSP.peer', 'Org2MSP.peer')"))
        odd = policy + b"\x98\x06\x01"  # a field that nobody knows yet
        called = await deploy(legacy_site, "1.0", odd, b"e", b"v", collections())
        assert odd in called.response.payload
        assert called.writes["lscc"]["cc~collection"] == collections()
        data = decode(ChaincodeData, called.response.payload)
        assert (data.escc, data.vscc) == ("e", "v")

    async def test_an_upgrade(self, legacy_site: Site) -> None:
        await install(legacy_site, spec())
        await install(legacy_site, spec("2.0"))
        await deploy(legacy_site, "1.0", b"", b"", b"", collections())
        called = await upgrade(legacy_site)
        assert list(called.writes["lscc"]) == ["cc"]  # the collections stay
        assert called.event is not None
        assert called.event.event_name == "upgrade"
        assert decode(LifecycleEvent, called.event.payload).chaincode_name == "cc"
        assert info(legacy_site).ccid == "cc:2.0"
        assert legacy_site.definitions.collection_names(CHANNEL)("cc") == {"secrets"}

    async def test_a_package_signed_by_its_owners(self, legacy_site: Site) -> None:
        policy = encode(parse_policy("OR('Org2MSP.admin')"))
        await install(legacy_site, signed(policy))
        with pytest.raises(PeerError, match=r"^instantiation policy violation: "):
            await deploy(legacy_site)
        called = await deploy(legacy_site, by=legacy_site.other_admin)
        data = decode(ChaincodeData, called.response.payload)
        metadata = sha256(b"cc1.0").digest()
        signature = sha256(policy + b"onetwo").digest()
        assert data.id == sha256(CODE + metadata + signature).digest()
        fields = encode(CdsData(hash=CODE, metadatahash=metadata))
        assert data.data == fields + b"\x1a\x20" + signature
        assert data.instantiation_policy == decode(SignaturePolicyEnvelope, policy)
        await install(legacy_site, spec("2.0"))
        with pytest.raises(PeerError, match=r"^instantiation policy violation: "):
            await upgrade(legacy_site)  # the former policy decides, too
        assert (await upgrade(legacy_site, by=legacy_site.other_admin)).response.status == 200

    async def test_an_ordinary_member_may_not(self, legacy_site: Site) -> None:
        await install(legacy_site, spec())
        with pytest.raises(PeerError, match=r"^instantiation policy violation: "):
            await deploy(legacy_site, by=legacy_site.user)


class TestRefusals:
    async def test_names_and_arguments(self, legacy_site: Site) -> None:
        site = legacy_site
        assert await refused(site) == "invalid number of arguments to lscc: 0"
        assert await refused(site, "start") == "invalid function to lscc: start"
        for function in ("install", "deploy", "upgrade", "getid", "GetCollectionsConfig"):
            text = await refused(site, function)
            assert text == "invalid number of arguments to lscc: 1"
        assert await refused(site, "getchaincodes", "x") == "invalid number of arguments to lscc: 2"
        assert await refused(site, "getid", CHANNEL) == "invalid number of arguments to lscc: 2"
        many = ["deploy", CHANNEL, spec(code=b""), b"", b"", b"", b"", b""]
        assert (await refused(site, *many)).startswith("as V1_2 or later capability is not enabled")
        text = await refused(site, "deploy", "elsewhere", spec(code=b""))
        assert text == "invalid channel name: elsewhere"
        assert (await refused(site, "deploy", CHANNEL, b"\xff")).startswith("error unmarshalling")

    async def test_what_may_be_installed(self, legacy_site: Site) -> None:
        await install(legacy_site, spec())
        for data, text in (
            (spec(), "error installing chaincode code cc:1.0(chaincode cc:1.0 exists)"),
            (spec(code=b""), "error installing chaincode code cc:1.0(chaincode cc:1.0 exists)"),
            (spec(name="lscc"), "cannot install: lscc is the name of a system chaincode"),
            (
                spec(name="a/b"),
                (
                    "invalid chaincode name 'a/b'. Names must start with an alphanumeric character "
                    "and can only consist of alphanumerics, '_', and '-'"
                ),
            ),
            (
                spec("../x"),
                (
                    "invalid chaincode version '../x'. Versions must not be empty and can only "
                    "consist of alphanumerics, '_',  '-', '+', and '.'"
                ),
            ),
            (b"\xff", "it is neither a deployment spec nor a signed one"),
        ):
            assert await refused(legacy_site, "install", data, channel_id="") == text
        text = await refused(legacy_site, "install", spec("9"), by=legacy_site.user, channel_id="")
        assert text.startswith("access denied for [install]: Failed verifying that proposal's")

    async def test_what_may_be_deployed(self, legacy_site: Site) -> None:
        site = legacy_site
        text = await refused(site, "deploy", CHANNEL, spec(code=b""))
        assert text == "cannot get package for chaincode (cc:1.0)"
        await install(site, spec())
        text = await refused(site, "upgrade", CHANNEL, spec(code=b""))
        assert text == "could not find chaincode with name 'cc'"
        await deploy(site)
        text = await refused(site, "deploy", CHANNEL, spec(code=b""))
        assert text == "chaincode with name 'cc' already exists"
        text = await refused(site, "upgrade", CHANNEL, spec(code=b""))
        assert text == "version already exists for chaincode with name 'cc'"

    @pytest.mark.parametrize(
        ("content", "text"),
        [
            (b"\xff", "invalid collection configuration supplied for chaincode cc:1.0"),
            (
                encode(CollectionConfigPackage(config=[CollectionConfig()])),
                "unknown collection configuration type",
            ),
            (
                encode(
                    CollectionConfigPackage(
                        config=[
                            CollectionConfig(
                                static_collection_config=StaticCollectionConfig(name="s")
                            )
                        ]
                    )
                ),
                (
                    "collection member policy check failed: collection-name: s -- "
                    "collection member policy is not set"
                ),
            ),
            (
                collections(
                    SignaturePolicyEnvelope(
                        rule=SignaturePolicy(signed_by=0),
                        identities=[
                            MspPrincipal(
                                principal_classification=MspPrincipalClassification.ANONYMITY
                            )
                        ],
                    )
                ),
                (
                    "collection member policy check failed: collection-name: secrets -- "
                    "principal type 3 is not supported"
                ),
            ),
        ],
    )
    async def test_collections(self, legacy_site: Site, content: bytes, text: str) -> None:
        await install(legacy_site, spec())
        args = ["deploy", CHANNEL, spec(code=b""), b"", b"", b"", content]
        assert (await refused(legacy_site, *args)).startswith(text)

    async def test_an_endorsement_policy_that_is_none(self, legacy_site: Site) -> None:
        await install(legacy_site, spec())
        text = await refused(legacy_site, "deploy", CHANNEL, spec(code=b""), b"\xff")
        assert text.startswith("invalid endorsement policy: ")

    async def test_members_that_are_not_in_the_channel_are_only_logged(
        self, legacy_site: Site, caplog: pytest.LogCaptureFixture
    ) -> None:
        await install(legacy_site, spec())
        config = collections(parse_policy("OR('Org9MSP.member')"))
        assert (await deploy(legacy_site, "1.0", b"", b"", b"", config)).response.status == 200
        assert "collection secrets: Org9MSP is no member of the channel" in caplog.text

    async def test_a_channel_of_the_new_lifecycle(self, site: Site) -> None:
        await install(site, spec())
        for function in ("deploy", "upgrade"):
            assert await refused(site, function, CHANNEL, spec(code=b"")) == (
                f"Channel '{CHANNEL}' has been migrated to the new lifecycle, LSCC is now read-only"
            )


class TestQuestions:
    @pytest.mark.parametrize(
        ("short", "long"),
        [
            ("getid", "ChaincodeExists"),
            ("getccdata", "GetChaincodeData"),
            ("getdepspec", "GetDeploymentSpec"),
        ],
    )
    async def test_one_chaincode(self, legacy_site: Site, short: str, long: str) -> None:
        site = legacy_site
        await install(site, signed(ADMINS))
        data = (await deploy(site)).response.payload
        expected = {"getid": b"cc", "getccdata": data, "getdepspec": spec()}
        for function in (short, long):
            called = await site.call(site.lscc, function, CHANNEL, "cc", by=site.user)
            assert called.response.payload == expected[short]
            text = await refused(site, function, CHANNEL, "none", by=site.user)
            assert text == "could not find chaincode with name 'none'"
            stranger = SigningIdentity.self_signed("Org1MSP")
            text = await refused(site, function, CHANNEL, "cc", by=stranger)
            assert text.startswith(f"access denied for [{function}][{CHANNEL}]: Failed evaluating")
            assert "[/Channel/Application/Readers]" in text

    @pytest.mark.parametrize("function", ["getchaincodes", "GetChaincodes"])
    async def test_all_that_are_deployed(self, legacy_site: Site, function: str) -> None:
        await install(legacy_site, spec())
        await deploy(legacy_site, "1.0", b"", b"", b"", collections())
        called = await legacy_site.call(legacy_site.lscc, function, by=legacy_site.user)
        [found] = decode(ChaincodeQueryResponse, called.response.payload).chaincodes
        assert (found.name, found.version, found.path) == ("cc", "1.0", "some/where")
        assert (found.escc, found.vscc) == ("escc", "vscc")

    @pytest.mark.parametrize("function", ["getinstalledchaincodes", "GetInstalledChaincodes"])
    async def test_all_that_are_installed(self, legacy_site: Site, function: str) -> None:
        site = legacy_site
        await install(site, spec())
        called = await site.call(site.lscc, function, channel_id="")
        [found] = decode(ChaincodeQueryResponse, called.response.payload).chaincodes
        assert (found.name, found.version, found.path) == ("cc", "1.0", "some/where")
        assert found.id == sha256(CODE + sha256(b"cc1.0").digest()).digest()
        text = await refused(site, function, channel_id="", by=site.user)
        assert text.startswith(f"access denied for [{function}]: ")

    @pytest.mark.parametrize("function", ["getcollectionsconfig", "GetCollectionsConfig"])
    async def test_collections(self, legacy_site: Site, function: str) -> None:
        site = legacy_site
        await install(site, spec())
        assert await refused(site, function, "cc") == "could not find chaincode with name 'cc'"
        await deploy(site)
        text = await refused(site, function, "cc", by=site.user)
        assert text == "collections config not defined for chaincode cc"
        await install(site, spec("2.0"))
        await upgrade(site, "2.0", b"", b"", b"", collections())
        called = await site.call(site.lscc, function, "cc", by=site.user)
        assert called.response.payload == collections()


class TestRunning:
    async def test_another_package_under_the_same_name(self, legacy_site: Site) -> None:
        await install(legacy_site, spec())
        data = decode(ChaincodeData, (await deploy(legacy_site)).response.payload)
        for change, text in (
            ({"data": b"other"}, "chaincode fingerprint mismatch: data mismatch"),
            ({"version": "7"}, "cannot get package for chaincode (cc:7)"),
        ):
            changed = replace(data, **change)
            await legacy_site.write("lscc", {"cc": encode(changed)})
            with pytest.raises(DefinitionNotUsable) as caught:
                info(legacy_site)
            assert str(caught.value) == text

    async def test_another_instantiation_policy(self, legacy_site: Site) -> None:
        await install(legacy_site, signed(ADMINS))
        data = decode(ChaincodeData, (await deploy(legacy_site)).response.payload)
        assert info(legacy_site).ccid == "cc:1.0"
        data.instantiation_policy = standard.accept_all()
        await legacy_site.write("lscc", {"cc": encode(data)})
        with pytest.raises(DefinitionNotUsable, match="instantiation policy mismatch"):
            info(legacy_site)

    async def test_a_legacy_definition_on_a_channel_of_the_new_lifecycle(
        self, site: Site, legacy_site: Site
    ) -> None:
        await install(legacy_site, spec())
        await install(site, spec())
        data = (await deploy(legacy_site)).response.payload
        with pytest.raises(UnknownChaincode):
            info(site)
        await site.write("lscc", {"cc": data})
        assert info(site).ccid == "cc:1.0"
