"""How texts become values: what Go and viper accept, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.config import values


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("300s", 300.0),
        ("1m30s", 90.0),
        ("100ms", 0.1),
        ("1.5h", 5400.0),
        (".5s", 0.5),
        ("2us", 2e-6),
        ("2µs", 2e-6),
        ("30000000000", 30.0),
        ("0", 0.0),
        ("-1m5s", -65.0),
        ("+5s", 5.0),
    ],
)
def test_durations_as_go_reads_them(text: str, seconds: float) -> None:
    assert values.parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5 s", "s", "5x", "1m 30s", "٣s", "5s5", "1.5", "5s\n"])
def test_a_text_that_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a duration"):
        values.parse_duration(text)


@given(st.integers(min_value=-(10**15), max_value=10**15))
def test_a_duration_survives_being_shown(milliseconds: int) -> None:
    seconds = milliseconds / 1000
    shown = values.show_duration(seconds)
    assert values.parse_duration(shown) == pytest.approx(seconds, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("104857600", 100 << 20),
        ("100MB", 100 << 20),
        ("64k", 64 << 10),
        ("1 g", 1 << 30),
        ("7b", 7),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert values.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "-1", "1tb", "k", "1.5m", "0x10"])
def test_a_text_that_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a size"):
        values.parse_size(text)


@pytest.mark.parametrize("text", ["1", "t", "T", "TRUE", "true", "True"])
def test_true(text: str) -> None:
    assert values.parse_boolean(text) is True


@pytest.mark.parametrize("text", ["0", "f", "F", "FALSE", "false", "False"])
def test_false(text: str) -> None:
    assert values.parse_boolean(text) is False


@pytest.mark.parametrize("text", ["", "yes", "on", "tRUE", " true", "2"])
def test_a_text_that_is_no_boolean_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected true or false"):
        values.parse_boolean(text)


@pytest.mark.parametrize(
    ("text", "number"), [("12", 12), ("-3", -3), ("0x10", 16), ("1_000", 1000)]
)
def test_numbers(text: str, number: int) -> None:
    assert values.parse_integer(text) == number


@pytest.mark.parametrize("text", ["", "1.0", "ten", "010"])
def test_a_text_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a whole number"):
        values.parse_integer(text)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:7051", "127.0.0.1", 7051),
        ("peer0.org1:0", "peer0.org1", 0),
        ("[::1]:65535", "::1", 65535),
        (":7051", "", 7051),
    ],
)
def test_addresses(text: str, host: str, port: int) -> None:
    assert values.split_address(text) == (host, port)


@pytest.mark.parametrize("text", ["", "host", "host:", "::1:7051", "host:x", "host:70510", "h:-1"])
def test_a_text_that_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected host:port|above 65535"):
        values.split_address(text)


def test_an_address_may_be_left_empty() -> None:
    assert values.ADDRESS.parse("") == ""


def test_levels_and_formats() -> None:
    assert values.LEVEL.parse("DEBUG") == "debug"
    assert values.LOG_FORMAT.parse("JSON") == "json"
    assert values.LOG_FORMAT.parse("%{color}%{message}") == "text"
    assert values.LOG_SPEC.parse("info:a=debug") == "info:a=debug"
    for kind, text in (
        (values.LEVEL, "loud"),
        (values.LOG_FORMAT, "xml"),
        (values.LOG_SPEC, "a=loud"),
        (values.choice(["net", "dev"]), "prod"),
    ):
        with pytest.raises(ValueError, match=r"expected one of|invalid logging specification"):
            kind.parse(text)
