"""TLS contexts from PEM bytes.

Room:      peer.rpc   (used by client, connector, parts, serving and orderer)
Loop:      none
Fabric:    internal/pkg/comm/config.go (release-2.5)
"""

from __future__ import annotations

import os
import ssl

from peer.remote import ClientTls

CIPHERS = "ECDHE+AESGCM"


def server_context(certificate: bytes, key: bytes, client_ca: bytes = b"") -> ssl.SSLContext:
    """Return a context for a server.

    Args:
        client_ca: lets in only holders of a certificate that chains to one of these; empty: anyone.

    Raises:
        ssl.SSLError: the PEM text cannot be used.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER)
    if client_ca:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=client_ca.decode())
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # Go trusts intermediates, too
    _load_key_pair(context, certificate, key)
    return context


def client_context(tls: ClientTls) -> ssl.SSLContext:
    """Return a context that trusts `tls.root` only and shows a certificate if there is one.

    As in Go, what is trusted need not be self-signed: an intermediate authority will do.

    Raises:
        ssl.SSLError: the PEM text cannot be used.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=tls.root.decode())
    if tls.certificate:
        _load_key_pair(context, tls.certificate, tls.key)
    return context


def _context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(["h2"])
    return context


def _load_key_pair(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """Load a key pair from memory; `ssl` takes files only, so it passes through a sealed one."""
    fd = os.memfd_create("key-pair", os.MFD_CLOEXEC)
    with open(fd, "wb") as file:
        file.write(certificate + b"\n" + key)
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{fd}")
