"""The text form of policies: ``AND('Org1MSP.member', OR('Org2MSP.admin', …))``, ``ANY Readers``.

Room:      peer.msp
Loop:      none
Fabric:    common/policydsl/policyparser.go (release-2.5)

The bytes of a parsed policy must be those of Fabric, as organisations compare definitions: the
principals of an inner gate come before those that stand beside it, and none is used twice.
"""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple, NoReturn

from fabric_protos.codec import DecodeError, decode
from fabric_protos.common import (
    ImplicitMetaPolicy,
    ImplicitMetaPolicyRule,
    MspPrincipal,
    MspPrincipalClassification,
    MspRole,
    MspRoleMspRoleType,
    OrganizationUnit,
    SignaturePolicy,
    SignaturePolicyEnvelope,
    SignaturePolicyNOutOf,
)
from peer.errors import PolicyInvalid, PolicySyntaxError
from peer.msp.standard import role_principal

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<word>[A-Za-z_][A-Za-z0-9_.-]*)
      | (?P<number>[0-9]+)
      | '(?P<single>[^']*)' | "(?P<double>[^"]*)"
      | (?P<sign>[(),])
    )""",
    re.VERBOSE,
)
_NUMBER = re.compile("[0-9]{1,9}")
_PRINCIPAL = re.compile(r"([A-Za-z0-9.-]+)\.(admin|member|client|peer|orderer)")
_AND = {"And", "and", "AND"}
_OR = {"Or", "or", "OR"}
_OUT_OF = {"OutOf", "outof", "OUTOF"}


def parse_policy(text: str) -> SignaturePolicyEnvelope:
    """Read a signature policy.

    Raises:
        PolicySyntaxError: *text* is none; carries the place.
    """
    parser = _Parser(text)
    try:
        gate = parser.gate(parser.take())
        parser.expect_end()
        principals: list[MspPrincipal] = []
        return SignaturePolicyEnvelope(rule=gate.build(principals), identities=principals)
    except RecursionError:
        raise PolicySyntaxError(text, 0, "gates are nested too deep") from None


def parse_implicit_meta(text: str) -> ImplicitMetaPolicy:
    """Read an implicit meta policy: ``ANY``, ``ALL`` or ``MAJORITY``, a space, and a policy's name.

    Raises:
        PolicySyntaxError: *text* is none; carries the place.
    """
    rule, _, name = text.partition(" ")
    if rule not in ImplicitMetaPolicyRule.__members__:
        raise PolicySyntaxError(text, 0, "expected ANY, ALL or MAJORITY")
    if not name or " " in name:
        raise PolicySyntaxError(text, len(rule), "expected a space and the name of a policy")
    return ImplicitMetaPolicy(rule=ImplicitMetaPolicyRule[rule], sub_policy=name)


def format_policy(envelope: SignaturePolicyEnvelope) -> str:
    """Return the text of a policy; `parse_policy` reads it back where all principals are roles.

    Raises:
        PolicyInvalid: a rule is empty, or refers to a principal that is not there.
    """
    if envelope.rule is None:
        raise PolicyInvalid("Empty policy element")
    return _format_rule(envelope.rule, envelope.identities)


def format_principal(principal: MspPrincipal) -> str:
    """Return the text of a principal; a description where there is no text form."""
    kind = principal.principal_classification
    try:
        if kind == MspPrincipalClassification.ROLE:
            role = decode(MspRole, principal.principal)
            if role.role in list(MspRoleMspRoleType):
                return f"'{role.msp_identifier}.{role.role.name.lower()}'"
        elif kind == MspPrincipalClassification.ORGANIZATION_UNIT:
            unit = decode(OrganizationUnit, principal.principal)
            return f"<unit {unit.organizational_unit_identifier} of {unit.msp_identifier}>"
        elif kind == MspPrincipalClassification.IDENTITY:
            digest = hashlib.sha256(principal.principal).hexdigest()
            return f"<the identity of SHA-256 {digest[:16]}>"
    except DecodeError:
        pass
    return f"<principal of type {int(kind)}>"


def _format_rule(rule: SignaturePolicy, principals: list[MspPrincipal]) -> str:
    if rule.n_out_of is not None:
        n = rule.n_out_of.n
        rules = [_format_rule(each, principals) for each in rule.n_out_of.rules]
        if rules and n in (len(rules), 1):
            return f"{'AND' if n == len(rules) else 'OR'}({', '.join(rules)})"
        return f"OutOf({', '.join([str(n), *rules])})"
    if rule.signed_by is None or not 0 <= rule.signed_by < len(principals):
        raise PolicyInvalid(f"no principal {rule.signed_by}")
    return format_principal(principals[rule.signed_by])


class _Principal(NamedTuple):
    msp_id: str
    role: str


class _Gate(NamedTuple):
    n: int
    arguments: list[_Gate | _Principal]

    def build(self, principals: list[MspPrincipal]) -> SignaturePolicy:
        """Return the rule; append its principals, those of inner gates first, as Fabric does."""
        inner = {
            number: argument.build(principals)
            for number, argument in enumerate(self.arguments)
            if isinstance(argument, _Gate)
        }
        rules = []
        for number, argument in enumerate(self.arguments):
            if isinstance(argument, _Principal):
                rules.append(SignaturePolicy(signed_by=len(principals)))
                role = MspRoleMspRoleType[argument.role.upper()]
                principals.append(role_principal(argument.msp_id, role))
            else:
                rules.append(inner[number])
        return SignaturePolicy(n_out_of=SignaturePolicyNOutOf(n=self.n, rules=rules))


class _Token(NamedTuple):
    kind: str
    """word, number, string, sign, or end"""
    text: str
    position: int


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def take(self) -> _Token:
        match = _TOKEN.match(self._text, self._at)
        if match is None or match.lastgroup is None:
            rest = self._text[self._at :]
            position = self._at + len(rest) - len(rest.lstrip())
            if position == len(self._text):
                return _Token("end", "the end", position)
            self.fail(position, f"unexpected {self._text[position]!r}")
        self._at = match.end()
        kind = match.lastgroup
        is_string = kind in ("single", "double")
        start = match.start(kind) - is_string
        return _Token("string" if is_string else kind, match[kind], start)

    def gate(self, name: _Token) -> _Gate:
        """Read the gate whose name has been taken."""
        if name.text not in _AND | _OR | _OUT_OF or name.kind != "word":
            self.fail(name.position, f"expected a gate (AND, OR, OutOf), not {name.text}")
        self.expect("(")
        n = None
        if name.text in _OUT_OF:
            count = self.take()
            if count.kind not in ("number", "string") or not _NUMBER.fullmatch(count.text):
                self.fail(count.position, f"expected a number, not {count.text}")
            n = count
            self.expect(",")
        arguments = [self.argument()]
        while (sign := self.take()).text == "," and sign.kind == "sign":
            arguments.append(self.argument())
        if (sign.kind, sign.text) != ("sign", ")"):
            self.fail(sign.position, f"expected , or ), not {sign.text}")
        if n is None:
            return _Gate(len(arguments) if name.text in _AND else 1, arguments)
        if int(n.text) > len(arguments) + 1:
            self.fail(n.position, f"invalid t-out-of-n predicate, t {n.text}, n {len(arguments)}")
        return _Gate(int(n.text), arguments)

    def argument(self) -> _Gate | _Principal:
        token = self.take()
        if token.kind == "word":
            return self.gate(token)
        if token.kind != "string":
            self.fail(token.position, f"expected a gate or a principal, not {token.text}")
        match = _PRINCIPAL.fullmatch(token.text)
        if match is None:
            self.fail(
                token.position,
                f"error parsing principal {token.text}: expected 'MSPID.ROLE' "
                "with a role of member, admin, client, peer, orderer",
            )
        return _Principal(match[1], match[2])

    def expect(self, text: str) -> None:
        token = self.take()
        if (token.kind, token.text) != ("sign", text):
            self.fail(token.position, f"expected {text}, not {token.text}")

    def expect_end(self) -> None:
        token = self.take()
        if token.kind != "end":
            self.fail(token.position, f"expected the end, not {token.text}")

    def fail(self, position: int, reason: str) -> NoReturn:
        raise PolicySyntaxError(self._text, position, reason)
