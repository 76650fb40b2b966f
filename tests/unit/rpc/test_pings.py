"""How often a client may ping."""

from __future__ import annotations

from peer.rpc.http2_server import PingPolicy


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def policy() -> tuple[PingPolicy, Clock]:
    clock = Clock()
    return PingPolicy(60.0, clock), clock


def test_a_ping_a_minute_is_welcome() -> None:
    pings, clock = policy()
    for _ in range(100):
        assert pings.allows()
        clock.now += 60


def test_clocks_are_not_exact() -> None:
    pings, clock = policy()
    for _ in range(100):
        assert pings.allows()
        clock.now += 55


def test_two_early_ones_are_forgiven_and_the_third_is_not() -> None:
    pings, clock = policy()
    answers = []
    for _ in range(4):
        answers.append(pings.allows())
        clock.now += 50
    assert answers == [True, True, True, False]


def test_who_was_sent_something_may_ping() -> None:
    pings, clock = policy()
    for _ in range(100):
        assert pings.allows()
        pings.sent()
        clock.now += 0.001
    assert [pings.allows() for _ in range(4)] == [True, True, True, False]


def test_any_pings_are_welcome_without_a_limit() -> None:
    pings = PingPolicy(0.0, Clock())
    assert all(pings.allows() for _ in range(100))
