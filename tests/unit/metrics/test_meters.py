"""Counters, histograms and readings, and that Prometheus' own reader understands their text."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from peer.metrics.meters import MAX_SERIES, OTHER, Registry

NASTY = 'a "quoted"\\back\nslash {x="1",} 7'


def test_prometheus_reads_what_was_counted() -> None:
    registry = Registry()
    counter = registry.counter("requests", "Requests, all", "channel", "chaincode")
    counter.inc("ch1", "cc")
    counter.inc("ch1", "cc", by=2)
    counter.inc("ch1", NASTY)
    sizes = registry.histogram("seconds", "Times", "channel", buckets=(0.1, 1.0, 10.0))
    for value in (0.05, 0.1, 0.5, 99.0):
        sizes.observe(value, "ch1")
    registry.reading("height", "Blocks", "channel", read=lambda: {("ch1",): 12.5})
    families = {each.name: each for each in text_string_to_metric_families(registry.text())}
    assert {name: each.type for name, each in families.items()} == {
        "requests": "counter",
        "seconds": "histogram",
        "height": "gauge",
    }
    assert families["requests"].documentation == "Requests, all"
    # the reader adds `_total` to counters, the text has none
    assert [(each.labels, each.value) for each in families["requests"].samples] == [
        ({"channel": "ch1", "chaincode": "cc"}, 3),
        ({"channel": "ch1", "chaincode": NASTY}, 1),
    ]
    assert "_total" not in registry.text()
    assert [
        (each.name, each.labels.get("le"), each.value) for each in families["seconds"].samples
    ] == [
        ("seconds_bucket", "0.1", 2),
        ("seconds_bucket", "1", 3),
        ("seconds_bucket", "10", 3),
        ("seconds_bucket", "+Inf", 4),
        ("seconds_sum", None, pytest.approx(99.65)),
        ("seconds_count", None, 4),
    ]
    assert families["height"].samples[0].value == 12.5


def test_a_counter_without_labels_is_there_before_it_counts() -> None:
    registry = Registry()
    counter = registry.counter("received", "Received")
    registry.counter("labelled", "Labelled", "channel")
    assert "\nreceived 0\n" in registry.text()
    assert "\nlabelled" not in registry.text().replace("# TYPE labelled", "")
    counter.inc()
    assert registry.value("received") == 1


def test_a_value_is_found_by_all_of_its_labels() -> None:
    registry = Registry()
    counter = registry.counter("requests", "Requests", "a", "b")
    registry.counter("requests_too", "More", "a", "b").inc("x", "y", by=9)
    counter.inc("x", "y")
    assert registry.value("requests", a="x", b="y") == 1
    assert registry.value("requests", b="y", a="x") == 1
    assert registry.value("requests_too", a="x", b="y") == 9
    assert registry.value("requests", a="x") is None
    assert registry.value("requests", a="x", b="z") is None
    assert registry.value("nothing") is None


def test_labels_from_clients_cannot_fill_the_memory() -> None:
    registry = Registry()
    counter = registry.counter("proposals", "Proposals", "channel", "chaincode")
    times = registry.histogram("seconds", "Times", "chaincode", buckets=(1.0,))
    for number in range(MAX_SERIES + 50):
        counter.inc("ch1", f"cc{number}")
        times.observe(0.5, f"cc{number}")
    counter.inc("ch1", "cc0")
    assert registry.value("proposals", channel="ch1", chaincode="cc0") == 2
    assert registry.value("proposals", channel="ch1", chaincode=f"cc{MAX_SERIES}") is None
    assert registry.value("proposals", channel=OTHER, chaincode=OTHER) == 50
    assert registry.value("seconds_count", chaincode=OTHER) == 50
    assert registry.text().count("\nproposals{") == MAX_SERIES + 1


def test_numbers_are_written_as_go_writes_them() -> None:
    registry = Registry()
    values = {("int",): 3.0, ("part",): 0.25, ("small",): 1e-9, ("many",): 2.0**60}
    registry.reading("n", "N", "of", read=lambda: values)
    assert 'n{of="int"} 3\n' in registry.text()
    (family,) = text_string_to_metric_families(registry.text())
    assert {(each.labels["of"],): each.value for each in family.samples} == values
