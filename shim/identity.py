"""Who called: the client's MSP, certificate, attributes and the id used across languages.

Room:      shim   (imports fabric_protos.stream and, here only, cryptography; loaded on use)
Loop:      none
Lifetime:  transaction
Fabric:    pkg/cid and pkg/attrmgr (fabric-chaincode-go); crypto/x509/pkix for the order of names
"""

from __future__ import annotations

import json
from base64 import b64encode
from typing import TYPE_CHECKING

from cryptography import x509

from fabric_protos.errors import DecodeError
from fabric_protos.stream import (
    MspRole,
    MspRoleMspRoleType,
    OrganizationUnit,
    SerializedIdemixIdentity,
    SerializedIdentity,
)

from .errors import ChaincodeError

if TYPE_CHECKING:
    from .context import Context

ATTRIBUTES_OID = "1.2.3.4.5.6.7.8.1"
OU_OID = "2.5.4.11"
GO_ORDER = (
    ("SERIALNUMBER", "2.5.4.5"),
    ("CN", "2.5.4.3"),
    ("OU", OU_OID),
    ("O", "2.5.4.10"),
    ("POSTALCODE", "2.5.4.17"),
    ("STREET", "2.5.4.9"),
    ("L", "2.5.4.7"),
    ("ST", "2.5.4.8"),
    ("C", "2.5.4.6"),
)
"""The attribute types Go knows, in the order it prints them; the first two hold one value."""
NAMES = {oid: name for name, oid in GO_ORDER}
OPENSSL_NAMES = {
    "2.5.4.5": "serialNumber",
    "2.5.4.9": "street",
    "2.5.4.17": "postalCode",
    "1.2.840.113549.1.9.1": "emailAddress",
}
SINGLE = ("SERIALNUMBER", "CN")


class ClientIdentity:
    """The creator of a transaction.

    Args:
        source: a stub, or the marshalled ``SerializedIdentity`` of its ``creator``.

    Attributes:
        msp_id: the client's MSP.
        certificate: the X.509 certificate; None for an Idemix identity.
        attributes: those the certificate authority vouches for, by name.

    Raises:
        ValueError: the identity is neither X.509 nor Idemix.
    """

    def __init__(self, source: Context | bytes) -> None:
        creator = source if isinstance(source, bytes) else source.creator
        identity = SerializedIdentity.decode(creator)
        self.msp_id = identity.mspid
        self.certificate: x509.Certificate | None = None
        if b"-----BEGIN" in identity.id_bytes:
            self.certificate = x509.load_pem_x509_certificate(identity.id_bytes)
            self.attributes = _attributes(self.certificate)
        else:
            self.attributes = _idemix_attributes(identity.id_bytes)

    @property
    def id(self) -> str:
        """Identity as Go chaincode writes it: base64 of ``x509::<subject>::<issuer>``.

        Raises:
            ChaincodeError: an Idemix identity has none, on purpose.
        """
        certificate = self._named()
        text = f"x509::{go_name(certificate.subject)}::{go_name(certificate.issuer)}"
        return b64encode(text.encode()).decode()

    @property
    def id_node_style(self) -> str:
        """Identity as Node chaincode writes it, not base64; raises as `id`."""
        certificate = self._named()
        return f"x509::{node_name(certificate.subject)}::{node_name(certificate.issuer)}"

    @property
    def ous(self) -> list[str]:
        """The organisational units of the subject."""
        if self.certificate is None:
            return [self.attributes["ou"]]
        return [value for oid, value in _values(self.certificate.subject) if oid == OU_OID]

    def get_attribute_value(self, name: str) -> str | None:
        """Return an attribute; None when the client has none of that name."""
        return self.attributes.get(name)

    def assert_attribute_value(self, name: str, value: str) -> None:
        """Demand an attribute.

        Raises:
            ChaincodeError: it is missing or differs; uncaught, it refuses the transaction.
        """
        found = self.attributes.get(name)
        if found is None:
            raise ChaincodeError(f"attribute '{name}' was not found")
        if found != value:
            raise ChaincodeError(f"attribute '{name}' equals '{found}', not '{value}'")

    def has_ou_value(self, ou: str) -> bool:
        """Tell whether the subject carries this organisational unit."""
        return ou in self.ous

    def _named(self) -> x509.Certificate:
        if self.certificate is None:
            raise ChaincodeError("cannot determine identity")
        return self.certificate


def go_name(name: x509.Name) -> str:
    """Print a name as Go does: known types only, in a fixed order, values of one type joined."""
    found: dict[str, list[str]] = {}
    for oid, value in _values(name):
        if oid in NAMES:
            found.setdefault(NAMES[oid], []).append(value)
    groups = []
    for short, _ in GO_ORDER:
        values = [value for value in found.get(short, []) if value]
        if short in SINGLE:
            values = values[-1:]
        groups.append("+".join(f"{short}={_escaped(value)}" for value in values))
    return ",".join(filter(None, groups))


def node_name(name: x509.Name) -> str:
    """Print a name as Node does: every attribute in the certificate's order."""
    return "".join(
        f"/{_node_attribute(attribute)}=" + attribute.value.replace("/", "\\/", 1)
        for attribute in name
        if isinstance(attribute.value, str)
    )


def _node_attribute(attribute: x509.NameAttribute[str | bytes]) -> str:
    return OPENSSL_NAMES.get(attribute.oid.dotted_string, attribute.rfc4514_attribute_name)


def _values(name: x509.Name) -> list[tuple[str, str]]:
    return [
        (attribute.oid.dotted_string, attribute.value)
        for attribute in name
        if isinstance(attribute.value, str)
    ]


def _escaped(value: str) -> str:
    out = []
    for index, char in enumerate(value):
        edge = (char in " #" and index == 0) or (char == " " and index == len(value) - 1)
        out.append(f"\\{char}" if edge or char in ',+"\\<>;' else char)
    return "".join(out)


def _attributes(certificate: x509.Certificate) -> dict[str, str]:
    for extension in certificate.extensions:
        value = extension.value
        if extension.oid.dotted_string != ATTRIBUTES_OID:
            continue
        if isinstance(value, x509.UnrecognizedExtension):
            attributes = json.loads(value.value).get("attrs") or {}
            return {str(name): str(text) for name, text in attributes.items()}
    return {}


def _idemix_attributes(id_bytes: bytes) -> dict[str, str]:
    try:
        idemix = SerializedIdemixIdentity.decode(id_bytes)
        if not idemix.ou or not idemix.role:
            raise DecodeError("no organisational unit or role")
        unit = OrganizationUnit.decode(idemix.ou).organizational_unit_identifier
        role = MspRoleMspRoleType(MspRole.decode(idemix.role).role)
    except ValueError as exc:
        raise ValueError(f"the identity is neither X.509 nor Idemix: {exc}") from exc
    return {"ou": unit, "role": role.name.lower()}
