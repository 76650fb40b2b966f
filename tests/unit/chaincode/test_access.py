"""Who may register: by process, by certificate, by user."""

from __future__ import annotations

import hashlib
import os

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from trio.testing import MockClock, wait_all_tasks_blocked

from fabric_protos.stream import ChaincodeId
from peer.chaincode.access import DevelopmentGate, ServiceGate
from peer.chaincode.certificates import CertificateAuthority
from peer.chaincode.registry import HandlerRegistry, LaunchState
from peer.chaincode.stream import PeerEnd
from peer.errors import RegistrationRefused
from runtimes.api import Origin, TcpOrigin, UnixOrigin
from tests.fakes.runtime import FakeRuntime, NeverReadyRuntime
from tests.fakes.stream import FakeEndpoint, Type

from .house import Caller, open_house

CCID = "asset:1"


def der(certificate: bytes) -> bytes:
    return x509.load_pem_x509_certificate(certificate).public_bytes(Encoding.DER)


@pytest.fixture(scope="module")
def authority() -> CertificateAuthority:
    return CertificateAuthority()


async def test_with_tls_a_launch_has_a_certificate_of_its_own(
    call: Caller, authority: CertificateAuthority, autojump_clock: MockClock
) -> None:
    runtime = NeverReadyRuntime()
    async with open_house(runtime, authority=authority) as house:
        launches = [call(house.support.launch, f"asset:{number}") for number in (1, 2)]
        await wait_all_tasks_blocked()
        endpoints = {endpoint.address: endpoint for endpoint in house.listeners.open_now}
        assert house.listeners.unix == [False, False]
        first, second = runtime.started
        assert first.spec.env["CORE_PEER_TLS_ENABLED"] == "true"
        assert len(first.spec.files) == 5

        def certificate(of: object) -> bytes:
            return der(of.spec.files["/etc/hyperledger/fabric/client_pem.crt"])  # type: ignore[attr-defined]

        endpoint = endpoints[first.spec.peer_address]
        me = UnixOrigin(pid=first.pid, uid=0)
        ccid = first.spec.ccid

        assert await refused(endpoint, me, None, ccid) == (
            f"TLS is active but chaincode {ccid} didn't send certificate"
        )
        theirs = certificate(second)
        assert await refused(endpoint, me, theirs, ccid) == (
            f"Chaincode {ccid} with given certificate hash {hashlib.sha256(theirs).hexdigest()} "
            "belongs to a different chaincode"
        )
        stranger = UnixOrigin(pid=1, uid=0)
        assert "does not belong to the chaincode launched as" in await refused(
            endpoint, stranger, certificate(first), ccid
        )
        for instance in (first, second):
            chaincode = endpoints[instance.spec.peer_address].connect(
                UnixOrigin(pid=instance.pid, uid=0), certificate(instance)
            )
            await chaincode.register(instance.spec.ccid)
        for launch in launches:
            assert (await launch.value()).is_ready


async def refused(
    endpoint: FakeEndpoint, origin: Origin, certificate: bytes | None, ccid: str
) -> str:
    chaincode = endpoint.connect(origin, certificate)
    chaincode.send(Type.REGISTER, ChaincodeId(name=ccid).encode())
    await chaincode.ended.wait()
    refusal = endpoint.refusals.pop()
    assert refusal.code == "PERMISSION_DENIED"
    return str(refusal)


async def test_tcp_connections_are_recognised_too(call: Caller, autojump_clock: MockClock) -> None:
    runtime = NeverReadyRuntime()
    async with open_house(runtime) as house:
        launch = call(house.support.launch, CCID)
        await wait_all_tasks_blocked()
        origin = TcpOrigin(remote=("127.0.0.1", 40000), local=("127.0.0.1", 7052))
        runtime.started[0].origins.add(origin)
        [endpoint] = house.listeners.open_now
        await endpoint.connect(origin).register(CCID)
        assert (await launch.value()).is_ready


async def test_who_waits_for_a_start_that_fails_is_refused(
    call: Caller, autojump_clock: MockClock
) -> None:
    """The listener is open before the start, and a stranger may be waiting there."""

    class SlowToFail(FakeRuntime):
        async def before_start(self, spec: object) -> None:
            await trio.sleep(1)
            raise ZeroDivisionError("a bug")

    async with open_house(SlowToFail()) as house:
        launch = call(house.support.launch, CCID)
        await wait_all_tasks_blocked()
        [endpoint] = house.listeners.open_now
        waiting = endpoint.connect(UnixOrigin(pid=1, uid=0))
        await launch.error()
        await waiting.ended.wait()


async def test_a_duplicate_that_ends_does_not_end_the_launch(
    call: Caller, autojump_clock: MockClock
) -> None:
    """Libraries may open a second connection before the first one is READY."""
    runtime = NeverReadyRuntime()
    async with open_house(runtime) as house:
        launch = call(house.support.launch, CCID)
        await wait_all_tasks_blocked()
        first, second = (house.connect(runtime.started[0]) for _ in range(2))
        await first.register(CCID)
        second.send(Type.REGISTER, ChaincodeId(name=CCID).encode())
        await second.ended.wait()
        [refusal] = house.listeners.opened[0].refusals
        assert (refusal.code, str(refusal)) == ("ALREADY_EXISTS", f"duplicate chaincodeID: {CCID}")
        await trio.sleep(1000)
        handler = await launch.value()
        assert handler.is_ready
        assert house.registry.handler(CCID) is handler


async def test_a_service_may_be_anybody() -> None:
    await ServiceGate(LaunchState(CCID), HandlerRegistry()).recognise(PeerEnd())


class TestDevelopment:
    async def test_this_user_may_register_anything(self) -> None:
        gate = DevelopmentGate()
        await gate.recognise(PeerEnd(UnixOrigin(pid=1, uid=os.getuid())))
        await gate.recognise(PeerEnd(UnixOrigin(pid=1, uid=0)))
        gate.admit("anything:1")
        gate.ended("for no reason")

    @pytest.mark.parametrize(
        "origin",
        [
            None,
            UnixOrigin(pid=1, uid=os.getuid() + 4711),
            TcpOrigin(("192.0.2.1", 1), ("192.0.2.2", 2)),
        ],
        ids=str,
    )
    async def test_nobody_else_may(self, origin: Origin | None) -> None:
        with pytest.raises(RegistrationRefused) as refused:
            await DevelopmentGate().recognise(PeerEnd(origin))
        assert "chaincodes of this user only" in str(refused.value)
