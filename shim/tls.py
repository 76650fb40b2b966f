"""TLS material: where it comes from, and the contexts made of it.

Room:      shim   (imports the standard library; loaded only where TLS is on)
Loop:      none
Lifetime:  none; private keys touch no disk
Fabric:    `newClientTLSConfig`, shim/shim.go (fabric-chaincode-go)

Peers since 1.2 label a PKCS#8 key ``EC PRIVATE KEY``. OpenSSL reads it all the same, so the bytes
go to it as they are.
"""

from __future__ import annotations

import os
import ssl

from .errors import SetupError


class TLS:
    """PEM material of one side.

    Args:
        key: private key.
        cert: certificate, with its chain.
        ca: authorities of the other side. A client needs it; a server that has it demands a
            certificate of every peer.
    """

    __slots__ = ("ca", "cert", "key")

    def __init__(self, key: bytes, cert: bytes, ca: bytes = b"") -> None:
        self.key = key
        self.cert = cert
        self.ca = ca

    def __repr__(self) -> str:
        return f"TLS(<key>, cert=<{len(self.cert)} bytes>, ca=<{len(self.ca)} bytes>)"


def client_context(tls: TLS, *, check_hostname: bool) -> ssl.SSLContext:
    """Make the context of a chaincode that dials its peer.

    Raises:
        SetupError: a part of the material cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = check_hostname
    return _loaded(context, tls)


def server_context(tls: TLS) -> ssl.SSLContext:
    """Make the context of a chaincode that listens.

    Raises:
        SetupError: a part of the material cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if tls.ca:
        context.verify_mode = ssl.CERT_REQUIRED
    return _loaded(context, tls)


def _loaded(context: ssl.SSLContext, tls: TLS) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    try:
        if tls.ca:
            context.load_verify_locations(cadata=tls.ca.decode("ascii"))
    except (ssl.SSLError, ValueError) as exc:
        raise SetupError(f"TLS: the root certificates cannot be used: {exc}") from exc
    try:
        _load_cert_chain(context, tls)
    except ssl.SSLError as exc:
        raise SetupError(f"TLS: key and certificate cannot be used: {exc}") from exc
    return context


def _load_cert_chain(context: ssl.SSLContext, tls: TLS) -> None:
    # The ssl module reads key and certificate from a path only: give it one into memory.
    descriptor = os.memfd_create("chaincode-tls")
    with os.fdopen(descriptor, "wb") as file:
        file.write(tls.key.rstrip() + b"\n" + tls.cert)
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password="")  # never ask a terminal
