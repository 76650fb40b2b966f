"""Development networks in a directory: whole or not at all, and found again."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path

import pytest
from cryptography import x509

from fabric_protos.codec import decode
from fabric_protos.common import Envelope
from peer.channel import network as network_module
from peer.channel.bundle import Bundle
from peer.channel.configblock import bundle_of
from peer.channel.configtx import genesis_config
from peer.channel.network import Member, Network, NetworkDescription, create, load
from peer.errors import ConfigError, NetworkDirectoryError
from peer.msp.directory import load_config, load_signing_identity

DESCRIPTION = NetworkDescription(
    channel_id="ch1",
    organisations=("Org1", "Retail-2"),
    peers=2,
    users=2,
    capability="V1_4_2",
    batch_timeout="10ms",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Network:
    return create(tmp_path_factory.mktemp("network") / "a" / "b", DESCRIPTION)


def test_names_follow_from_the_description(made: Network) -> None:
    first, second = made.organisations
    assert (first.name, first.msp_id) == ("Org1", "Org1MSP")
    assert first.directory == made.directory / "peerOrganizations" / "org1.example.com"
    assert second.directory == made.directory / "peerOrganizations" / "retail-2.example.com"
    assert [(node.name, node.address) for node in (*first.nodes, *second.nodes)] == [
        ("peer0.org1.example.com", "localhost:7051"),
        ("peer1.org1.example.com", "localhost:8051"),
        ("peer0.retail-2.example.com", "localhost:9051"),
        ("peer1.retail-2.example.com", "localhost:10051"),
    ]
    assert [user.name for user in first.users] == [
        "Admin@org1.example.com",
        "User1@org1.example.com",
        "User2@org1.example.com",
    ]
    assert made.orderer.directory == made.directory / "ordererOrganizations" / "example.com"
    assert [node.name for node in made.orderer.nodes] == ["orderer.example.com"]


def test_nothing_else_is_in_the_directory(made: Network) -> None:
    assert {path.name for path in made.directory.iterdir()} == {
        "ch1.block",
        "network.json",
        "ordererOrganizations",
        "peerOrganizations",
    }
    assert [path.name for path in made.directory.parent.iterdir()] == ["b"]
    for organisation in (made.orderer, *made.organisations):
        assert not (organisation.msp / "keystore").exists()
        for member in (*organisation.nodes, *organisation.users):
            assert (member.tls / "ca.crt").is_file()
            assert (member.msp / "keystore" / "priv_sk").is_file()


def test_keys_are_for_their_owner_alone(made: Network) -> None:
    assert stat.S_IMODE(made.directory.stat().st_mode) == 0o700
    keys = set()
    for path in made.directory.rglob("*"):
        if path.is_file() and b"PRIVATE KEY" in path.read_bytes():
            keys.add(path)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    # Per organisation: two authorities, and two for every node and user.
    assert len(keys) == (2 + 2 * 2) + 2 * (2 + 2 * 5)


def test_every_identity_is_valid_in_the_channel(made: Network) -> None:
    block = made.genesis_block()
    assert block.data is not None
    config = genesis_config("ch1", decode(Envelope, block.data.data[0]))
    bundle = Bundle("ch1", config)
    assert bundle.orderer is not None
    assert bundle.application is not None
    assert bundle.orderer.batch_timeout_s == 0.01
    assert bundle.application.capabilities.required == {"V1_4_2"}
    assert bundle.application.organisations["Retail-2"].anchor_peers == (("localhost", 9051),)
    for organisation in (made.orderer, *made.organisations):
        for member in (*organisation.nodes, *organisation.users):
            signer = load_signing_identity(member.msp, organisation.msp_id)
            identity = bundle.msps.deserialize(signer.creator)
            bundle.msps.validate(identity)
            identity.verify(b"data", signer.sign(b"data"))
            assert load_config(member.msp, organisation.msp_id) == load_config(
                organisation.msp, organisation.msp_id
            )


def test_a_network_is_found_again(made: Network) -> None:
    assert load(made.directory) == made


def test_an_empty_directory_is_taken(tmp_path: Path) -> None:
    assert create(tmp_path, NetworkDescription()) == load(tmp_path)


@pytest.mark.parametrize("there", ["file", "full", "network"])
def test_nothing_is_overwritten(tmp_path: Path, there: str) -> None:
    target = tmp_path / "net"
    if there == "file":
        target.write_text("mine")
    elif there == "full":
        target.mkdir()
        (target / "mine").write_text("mine")
    else:
        create(target, NetworkDescription())
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(NetworkDirectoryError) as caught:
        create(target, NetworkDescription())
    assert caught.value.path == str(target)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_what_others_make_meanwhile_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "net"
    write = network_module._write

    def race(network: Network) -> None:
        write(network)
        target.mkdir()
        (target / "theirs").write_text("theirs")

    monkeypatch.setattr(network_module, "_write", race)
    with pytest.raises(NetworkDirectoryError):
        create(target, NetworkDescription())
    assert [path.name for path in tmp_path.rglob("*")] == ["net", "theirs"]


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(network_module, "genesis_block", fail)
    with pytest.raises(NetworkDirectoryError, match="No space left on device"):
        create(tmp_path / "net", NetworkDescription())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"channel_id": "Upper"}, "channel 'Upper'"),
        ({"organisations": ()}, "1 to 59 peers"),
        ({"organisations": ("Org 1",)}, "organisation 'Org 1'"),
        ({"organisations": ("x" * 32,)}, "up to 31 letters"),
        ({"organisations": ("Org1", "ORG1")}, "organisation 'org1': the name is taken"),
        ({"organisations": ("orderer",)}, "organisation 'orderer': the name is taken"),
        ({"peers": 0}, "1 to 59 peers"),
        ({"organisations": ("A", "B"), "peers": 30}, "1 to 59 peers"),
        ({"users": -1}, "users -1"),
        ({"capability": "V1_1"}, "expected one of V1_4_2, V2_0, V2_5"),
        ({"batch_timeout": "0s"}, "batch timeout '0s'"),
        ({"batch_timeout": "soon"}, "batch timeout 'soon'"),
    ],
)
def test_a_description_that_cannot_be_made(values: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        NetworkDescription(**values)  # type: ignore[arg-type]  # whatever a test gives
    (problem,) = caught.value.problems
    assert text in problem


def test_every_problem_of_a_description_is_told() -> None:
    with pytest.raises(ConfigError) as caught:
        NetworkDescription(channel_id="", peers=0, users=-1)
    assert len(caught.value.problems) == 3


def test_the_largest_network_has_ports_for_all() -> None:
    description = NetworkDescription(peers=59)
    nodes = network_module._laid_out(Path("/net"), description).organisations[0].nodes
    assert nodes[-1].address == "localhost:65051"


@pytest.fixture
def copy(made: Network, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made.directory, tmp_path / "copy"))


@pytest.mark.parametrize(
    "missing",
    [
        "network.json",
        "ch1.block",
        "ordererOrganizations/example.com/orderers/orderer.example.com/msp",
        "peerOrganizations/org1.example.com/users/User2@org1.example.com/tls",
    ],
)
def test_a_network_with_a_part_missing_is_refused(copy: Path, missing: str) -> None:
    path = copy / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(NetworkDirectoryError) as caught:
        load(copy)
    assert caught.value.path == str(copy if missing == "network.json" else path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"organisations": 1}',
        '{"organisations": ["Org1"], "colour": "red"}',
        '{"organisations": ["Org1"], "peers": "two"}',
        '{"organisations": ["Org1"], "channel_id": "Upper"}',
        '{"organisations": ["Org1"], "addresses": "nowhere"}',
        '{"organisations": ["Org1"], "addresses": {"orderer.example.com": 7050}}',
        "\udcff",
    ],
)
def test_a_damaged_description_is_refused(copy: Path, text: str) -> None:
    (copy / "network.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(NetworkDirectoryError) as caught:
        load(copy)
    assert caught.value.path == str(copy / "network.json")


def test_a_damaged_genesis_block_is_refused(copy: Path) -> None:
    (copy / "ch1.block").write_bytes(b"\xff")
    network = load(copy)
    with pytest.raises(NetworkDirectoryError, match=r"ch1\.block"):
        network.genesis_block()


def test_the_description_lies_in_the_directory(made: Network) -> None:
    assert json.loads((made.directory / "network.json").read_text()) == {
        "channel_id": "ch1",
        "organisations": ["Org1", "Retail-2"],
        "peers": 2,
        "users": 2,
        "capability": "V1_4_2",
        "batch_timeout": "10ms",
        "msp_suffix": "MSP",
        "addresses": {},
    }


# On several machines


def test_nodes_elsewhere_are_named_by_the_channel_and_their_certificates(tmp_path: Path) -> None:
    elsewhere = {
        "orderer.example.com": "order.example.net:17050",
        "peer1.org1.example.com": "10.0.0.5:7051",
        "peer0.org1.example.com": "[2001:db8::5]:7051",
    }
    description = NetworkDescription(peers=2, addresses=elsewhere)
    made = create(tmp_path, description)
    assert load(tmp_path) == made
    bundle = bundle_of("mychannel", made.genesis_block())
    assert [each.address for each in bundle.orderer_endpoints] == ["order.example.net:17050"]
    assert bundle.application is not None
    assert bundle.application.organisations["Org1"].anchor_peers == (("2001:db8::5", 7051),)
    names, addresses = hosts(made.orderer.nodes[0])
    assert "order.example.net" in names
    names, addresses = hosts(made.organisations[0].nodes[1])
    assert "10.0.0.5" in addresses
    assert "order.example.net" not in names


def hosts(member: Member) -> tuple[list[str], list[str]]:
    """Return names and addresses of a node's TLS certificate."""
    certificate = x509.load_pem_x509_certificate((member.tls / "server.crt").read_bytes())
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return (
        found.get_values_for_type(x509.DNSName),
        [str(address) for address in found.get_values_for_type(x509.IPAddress)],
    )


def test_an_address_of_nobody_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"address of peer9: the nodes are orderer\.example\.com"):
        create(tmp_path / "net", NetworkDescription(addresses={"peer9": "host:1"}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("address", ["", "host", ":7050", "host:port", "host:70000"])
def test_an_address_that_nobody_can_dial_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="expected host:port"):
        NetworkDescription(addresses={"orderer.example.com": address})
