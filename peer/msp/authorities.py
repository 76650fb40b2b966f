"""The certificate authorities of an MSP, and the chains they make.

Room:      peer.msp
Loop:      none; safe to use from several threads
Lifetime:  one MSP
Fabric:    msp/mspimplsetup.go `setupCAs`, msp/mspimpl.go `getUniqueValidationChain` (release-2.5);
           Go's crypto/x509 `Certificate.Verify`
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta

from peer.msp.certificates import Certificate, CertificateProblem, read_certificate

Chain = tuple[Certificate, ...]

_MOMENT = timedelta(seconds=1)


class Authorities:
    """Root and intermediate certificates.

    Attributes:
        roots: in the order given, each in its one form.
        intermediates: the same.

    Raises:
        CertificateProblem: one of them is no CA certificate, or does not chain to a root.
    """

    def __init__(self, roots: Sequence[bytes], intermediates: Sequence[bytes]) -> None:
        self.roots = _read(roots)
        self.intermediates = _read(intermediates)
        for each in (*self.roots, *self.intermediates):
            _check_authority(each)
        # Every certificate stands in later chains in its one form, which its own chain yields.
        self.roots = [
            root.with_low_s(root) if root.is_issued_by(root) else root for root in self.roots
        ]
        self.intermediates = [
            each.with_low_s(chain[1]) if len(chain := self.chain(each)) > 1 else each
            for each in self.intermediates
        ]
        for root in self.roots:
            self.chain(root)
        self._inner = {issuer.der for each in self.intermediates for issuer in self.chain(each)[1:]}

    def chain(self, certificate: Certificate) -> Chain:
        """Return the one chain from *certificate* to a root, both included.

        Expiry is that of the certificate's first second: validity must not change with time.

        Raises:
            CertificateProblem: there is none, or more than one.
        """
        problems: list[str] = []
        chains = list(self._chains((certificate,), problems))
        served = [chain for chain in chains if all(each.serves for each in chain)]
        if chains and not served:
            problems.append("x509: certificate specifies an incompatible key usage")
        if not served:
            reason = problems[0] if problems else "x509: certificate signed by unknown authority"
            raise CertificateProblem(f"the supplied identity is not valid: {reason}")
        if len(served) > 1:
            count = len(served)
            raise CertificateProblem(
                f"this MSP only supports a single validation chain, got {count}"
            )
        return served[0]

    def is_inner(self, authority: Certificate) -> bool:
        """Tell whether *authority* issued an intermediate, so that it may not issue identities."""
        return authority.der in self._inner

    def find(self, certificate: Certificate) -> Certificate | None:
        """Return the root or intermediate that is *certificate*."""
        for each in (*self.roots, *self.intermediates):
            if each.received == certificate.received:
                return each
        return None

    def _chains(self, chain: Chain, problems: list[str]) -> Iterator[Chain]:
        """Yield every chain that continues *chain*, and note why others do not."""
        last = chain[-1]
        if (problem := _problem(chain)) is not None:
            problems.append(problem)
            return
        if len(chain) == 1 and any(last.received == root.received for root in self.roots):
            yield chain
            return
        for root in self.roots:
            if not _is_in(root, chain) and last.is_issued_by(root):
                longer = (*chain, root)
                if (problem := _problem(longer)) is None:
                    yield longer
                else:
                    problems.append(problem)
        for intermediate in self.intermediates:
            if not _is_in(intermediate, chain) and last.is_issued_by(intermediate):
                yield from self._chains((*chain, intermediate), problems)


def _read(pems: Sequence[bytes]) -> list[Certificate]:
    """Read certificates, each once, as a second copy would make a second chain."""
    return list({each.der: each for each in map(read_certificate, pems)}.values())


def _check_authority(certificate: Certificate) -> None:
    if not certificate.is_ca:
        raise CertificateProblem(
            f"CA Certificate did not have the CA attribute: {certificate.name}"
        )
    if certificate.subject_key_id is None:
        raise CertificateProblem(
            f"CA Certificate problem with Subject Key Identifier extension: {certificate.name}"
        )


def _is_in(certificate: Certificate, chain: Chain) -> bool:
    """Tell whether the same subject with the same key is there already."""
    return any(
        certificate.subject == each.subject and certificate.key == each.key for each in chain
    )


def _problem(chain: Chain) -> str | None:
    """Tell why the last of *chain* cannot stand at its end."""
    last, moment = chain[-1], chain[0].not_before + _MOMENT
    if last.unknown_extension:
        return f"x509: unhandled critical extension {last.unknown_extension}"
    if not last.not_before <= moment <= last.not_after:
        return f"x509: certificate has expired or is not yet valid: {last.name}"
    if last.path_length is not None and len(chain) - 2 > last.path_length:
        return "x509: too many intermediates for path length constraint"
    return None
