"""The client's identity: names in Go's form, attributes, units, Idemix."""

from __future__ import annotations

from base64 import b64decode

import pytest
from cryptography import x509

import shim
from fabric_protos.stream import (
    MspRole,
    OrganizationUnit,
    SerializedIdemixIdentity,
    SerializedIdentity,
)
from shim.identity import ClientIdentity, go_name, node_name
from tests.unit.shim.certificates import OIDS, Authority, name
from tests.unit.shim.test_context import stub_of

CA = name(
    ("C", "US"),
    ("ST", "North Carolina"),
    ("L", "Durham"),
    ("O", "org1.example.com"),
    ("CN", "ca.org1.example.com"),
)
MINTER = (
    ("C", "US"),
    ("ST", "North Carolina"),
    ("O", "Hyperledger"),
    ("OU", "client"),
    ("CN", "minter"),
)
GO_CA = "CN=ca.org1.example.com,O=org1.example.com,L=Durham,ST=North Carolina,C=US"
ATTRIBUTES = x509.UnrecognizedExtension(
    x509.ObjectIdentifier("1.2.3.4.5.6.7.8.1"),
    b'{"attrs":{"hf.Type":"client","role":"minter"}}',
)


def identity(*subject: tuple[str, str], extension: x509.ExtensionType | None = None) -> bytes:
    extensions = [] if extension is None else [extension]
    _, certificate = Authority(CA).issue(name(*subject), extensions=extensions)
    return SerializedIdentity(mspid="Org1MSP", id_bytes=certificate).encode()


def test_go_id() -> None:
    client = ClientIdentity(identity(*MINTER))
    assert client.msp_id == "Org1MSP"
    assert b64decode(client.id).decode() == (
        f"x509::CN=minter,OU=client,O=Hyperledger,ST=North Carolina,C=US::{GO_CA}"
    )


def test_go_id_groups_several_units() -> None:
    client = ClientIdentity(identity(*MINTER[:3], ("OU", "client"), ("OU", "org1"), ("CN", "c1")))
    assert b64decode(client.id).decode() == (
        f"x509::CN=c1,OU=client+OU=org1,O=Hyperledger,ST=North Carolina,C=US::{GO_CA}"
    )
    assert client.ous == ["client", "org1"]
    assert client.has_ou_value("org1")
    assert not client.has_ou_value("org2")


def test_node_id() -> None:
    assert ClientIdentity(identity(*MINTER)).id_node_style == (
        "x509::/C=US/ST=North Carolina/O=Hyperledger/OU=client/CN=minter"
        "::/C=US/ST=North Carolina/L=Durham/O=org1.example.com/CN=ca.org1.example.com"
    )


def test_names_keep_the_last_single_value_and_drop_unknown_types() -> None:
    subject = name(
        ("DC", "example"),
        ("CN", "first"),
        ("SERIALNUMBER", "1"),
        ("STREET", "s"),
        ("POSTALCODE", "p"),
        ("L", "l"),
        ("CN", "last"),
    )
    assert go_name(subject) == "SERIALNUMBER=1,CN=last,POSTALCODE=p,STREET=s,L=l"
    assert node_name(subject) == (
        "/DC=example/CN=first/serialNumber=1/street=s/postalCode=p/L=l/CN=last"
    )


def test_values_of_one_relative_name_join() -> None:
    units = [
        x509.NameAttribute(x509.ObjectIdentifier(OIDS["OU"]), value) for value in ("one", "two")
    ]
    assert go_name(x509.Name([x509.RelativeDistinguishedName(units)])) == "OU=one+OU=two"


@pytest.mark.parametrize(
    ("value", "escaped"),
    [
        ("a,b", r"a\,b"),
        ('+"\\<>;', r"\+\"\\\<\>\;"),
        (" a ", r"\ a\ "),
        ("a b", "a b"),
        ("#a#", r"\#a#"),
        (" ", r"\ "),
        ("ü", "ü"),
    ],
)
def test_escaping(value: str, escaped: str) -> None:
    assert go_name(name(("CN", value))) == f"CN={escaped}"


def test_node_escapes_one_slash_of_a_value() -> None:
    assert node_name(name(("CN", "a/b/c"))) == r"/CN=a\/b/c"


def test_attributes() -> None:
    client = ClientIdentity(identity(*MINTER, extension=ATTRIBUTES))
    assert client.attributes == {"hf.Type": "client", "role": "minter"}
    assert client.get_attribute_value("role") == "minter"
    assert client.get_attribute_value("none") is None
    client.assert_attribute_value("role", "minter")
    with pytest.raises(shim.ChaincodeError, match="attribute 'none' was not found"):
        client.assert_attribute_value("none", "x")
    with pytest.raises(shim.ChaincodeError, match="attribute 'role' equals 'minter', not 'x'"):
        client.assert_attribute_value("role", "x")


def test_no_attributes() -> None:
    other = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"x")
    assert ClientIdentity(identity(*MINTER, extension=other)).attributes == {}


def test_idemix() -> None:
    idemix = SerializedIdemixIdentity(
        ou=OrganizationUnit(msp_identifier="M", organizational_unit_identifier="unit").encode(),
        role=MspRole(msp_identifier="M", role=1).encode(),
    )
    client = ClientIdentity(
        SerializedIdentity(mspid="IdemixMSP", id_bytes=idemix.encode()).encode()
    )
    assert client.certificate is None
    assert client.attributes == {"ou": "unit", "role": "admin"}
    assert client.has_ou_value("unit")
    with pytest.raises(shim.ChaincodeError, match="cannot determine identity"):
        _ = client.id
    with pytest.raises(shim.ChaincodeError, match="cannot determine identity"):
        _ = client.id_node_style


@pytest.mark.parametrize("id_bytes", [b"", b"junk", SerializedIdemixIdentity(ou=b"x").encode()])
def test_neither_of_both(id_bytes: bytes) -> None:
    creator = SerializedIdentity(mspid="M", id_bytes=id_bytes).encode()
    with pytest.raises(ValueError, match=r"neither X\.509 nor Idemix"):
        ClientIdentity(creator)


def test_from_a_stub_without_proposal() -> None:
    with pytest.raises(ValueError, match=r"neither X\.509 nor Idemix"):
        ClientIdentity(stub_of())
