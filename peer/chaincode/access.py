"""Who may register on a stream.

Room:      peer.chaincode   (imports registry, stream, runtimes.api; used by launcher and support)
Loop:      Trio
Lifetime:  stream
Fabric:    core/chaincode/accesscontrol/access.go, interceptor.go (release-2.5)

Fabric checks a name only with TLS on, and any local process may answer to a name that is being
launched. Here every launch has a listener of its own, and whoever connects to it must belong to
what the launch started.
"""

from __future__ import annotations

import hashlib
import os

from peer.chaincode.registry import HandlerRegistry, LaunchState
from peer.chaincode.stream import PeerEnd
from peer.errors import RegistrationRefused, StreamLost
from runtimes.origin import owner_uid


class ServiceGate:
    """Guards the stream of a service that the peer dialled: the address is the proof.

    Source: none in Fabric, where a service under a wrong name is noticed at the start-up limit.
    """

    def __init__(self, state: LaunchState, registry: HandlerRegistry) -> None:
        self._state = state
        self._registry = registry

    async def recognise(self, far_end: PeerEnd) -> None:
        """Accept: the peer chose whom to dial."""
        self._state.enter("register")

    def admit(self, ccid: str) -> None:
        """Refuse another name than the launched one; that fails the launch at once."""
        expected = self._state.ccid
        if ccid != expected:
            refused = RegistrationRefused(
                expected, f"it registered as {ccid}, but was launched as {expected}"
            )
            self._state.notify(refused)
            raise refused

    def ended(self, reason: str) -> None:
        """End the launch with its stream; before READY the service may just be starting anew."""
        if self._registry.handler(self._state.ccid) is None:
            if self._state.done.is_set():
                self._state.end()
            else:
                self._state.pending = StreamLost(self._state.ccid, reason)


class LaunchGate(ServiceGate):
    """Guards the listener of one launch: only the launched process tree comes in."""

    async def recognise(self, far_end: PeerEnd) -> None:
        """Check that the connection comes from the launched processes, and its certificate.

        Raises:
            RegistrationRefused: it does not; the launch goes on.
        """
        state = self._state
        await state.wait_started()
        origin, instance = far_end.origin, state.instance
        if origin is None or instance is None or not await instance.owns(origin):
            raise RegistrationRefused(
                state.ccid, f"{origin} does not belong to the chaincode launched as {state.ccid}"
            )
        if state.certificate_hash is not None:
            self._check_certificate(state.certificate_hash, far_end.certificate)
        state.enter("register")

    def _check_certificate(self, issued: bytes, certificate: bytes | None) -> None:
        ccid = self._state.ccid
        if certificate is None:
            raise RegistrationRefused(
                ccid, f"TLS is active but chaincode {ccid} didn't send certificate"
            )
        presented = hashlib.sha256(certificate).digest()
        if presented != issued:
            raise RegistrationRefused(
                ccid,
                f"Chaincode {ccid} with given certificate hash {presented.hex()} "
                "belongs to a different chaincode",
            )

    def ended(self, reason: str) -> None:
        """Tell the launch, unless another stream holds its place."""
        if self._registry.handler(self._state.ccid) is None:
            self._state.stream_ended(reason)


class DevelopmentGate:
    """Guards the open listener of development mode: any name, but only this user's processes."""

    async def recognise(self, far_end: PeerEnd) -> None:
        """
        Raises:
            RegistrationRefused: the connecting process belongs to another user.
        """
        uid = owner_uid(far_end.origin) if far_end.origin is not None else None
        if uid not in (0, os.getuid()):
            raise RegistrationRefused(
                "", f"development mode takes chaincodes of this user only, not {far_end.origin}"
            )

    def admit(self, ccid: str) -> None:
        """Accept any name."""

    def ended(self, reason: str) -> None:
        """Nobody launched it, so nobody needs to know."""
