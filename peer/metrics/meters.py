"""Counters, gauges and histograms, and the text in which Prometheus reads them.

Room:      peer.metrics   (used by rooms)
Loop:      Trio; nothing here is for another thread
Lifetime:  peer
Fabric:    common/metrics/prometheus/provider.go (fabric-lib-go)

Not `prometheus_client`: its counters are all called ``…_total``, and Fabric's are not; importing it
takes 15 to 30 ms of every start, for a peer that may never be asked, and each count a microsecond.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Protocol

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MAX_SERIES = 1000
"""Label values of one meter. Some come from clients, who could otherwise fill the memory."""
OTHER = "(other)"
"""Every label of what is counted beyond that."""

Labels = tuple[str, ...]
Sample = tuple[str, Iterable[tuple[str, str]], float]
"""Suffix of the name, labels, value."""

_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


class Meter(Protocol):
    """One name with its series."""

    @property
    def kind(self) -> str:
        """The type, as Prometheus calls it."""
        ...

    @property
    def label_names(self) -> Labels:
        """What tells its series apart."""
        ...

    def samples(self) -> Iterator[Sample]:
        """Yield what there is of it now."""
        ...


class Counter:
    """Only grows. Label values are given in the order of the names."""

    kind = "counter"

    def __init__(self, label_names: Labels) -> None:
        self.label_names = label_names
        self._values: dict[Labels, float] = {} if label_names else {(): 0}

    def inc(self, *labels: str, by: int = 1) -> None:
        """Add to one series."""
        series = _bounded(labels, self._values)
        self._values[series] = self._values.get(series, 0) + by

    def samples(self) -> Iterator[Sample]:
        """Yield each series."""
        return _plain(self.label_names, self._values)


class Histogram:
    """Counts observations by size. Label values are given in the order of the names."""

    kind = "histogram"

    def __init__(self, label_names: Labels, buckets: tuple[float, ...]) -> None:
        self.label_names = label_names
        self._buckets = buckets
        self._series: dict[Labels, tuple[list[int], list[float]]] = {}

    def observe(self, value: float, *labels: str) -> None:
        """Take in one observation."""
        series = _bounded(labels, self._series)
        found = self._series.get(series)
        if found is None:
            found = self._series[series] = [0] * (len(self._buckets) + 1), [0.0]
        counts, total = found
        counts[bisect_left(self._buckets, value)] += 1
        total[0] += value

    def samples(self) -> Iterator[Sample]:
        """Yield buckets, sum and count of each series."""
        bounds = [*map(_number, self._buckets), "+Inf"]
        for labels, (counts, total) in self._series.items():
            named = list(zip(self.label_names, labels, strict=True))
            sums = list(accumulate(counts))
            for bound, count in zip(bounds, sums, strict=True):
                yield "_bucket", [*named, ("le", bound)], count
            yield "_sum", named, total[0]
            yield "_count", named, sums[-1]


class Reading:
    """Read where it is kept, when somebody asks."""

    def __init__(
        self, kind: str, label_names: Labels, read: Callable[[], Mapping[Labels, float]]
    ) -> None:
        self.kind = kind
        self.label_names = label_names
        self._read = read

    def samples(self) -> Iterator[Sample]:
        """Yield each series."""
        return _plain(self.label_names, self._read())


class Registry:
    """The meters of one peer by name; a program may hold several peers."""

    def __init__(self) -> None:
        self._meters: dict[str, tuple[str, Meter]] = {}

    @property
    def names(self) -> Mapping[str, Labels]:
        """Every name there is, with the names of its labels."""
        return {name: meter.label_names for name, (_, meter) in self._meters.items()}

    def counter(self, name: str, text: str, *label_names: str) -> Counter:
        """Add a counter."""
        counter = Counter(label_names)
        self._meters[name] = text, counter
        return counter

    def histogram(
        self, name: str, text: str, *label_names: str, buckets: tuple[float, ...]
    ) -> Histogram:
        """Add a histogram; `buckets` are the upper bounds, ascending."""
        histogram = Histogram(label_names, buckets)
        self._meters[name] = text, histogram
        return histogram

    def reading(
        self,
        name: str,
        text: str,
        *label_names: str,
        kind: str = "gauge",
        read: Callable[[], Mapping[Labels, float]],
    ) -> None:
        """Add what is read when somebody asks."""
        self._meters[name] = text, Reading(kind, label_names, read)

    def value(self, sample: str, **labels: str) -> float | None:
        """Return one sample, None if nothing was counted.

        Args:
            sample: a name; of a histogram with ``_count``, ``_sum`` or ``_bucket``.
            labels: all of them.
        """
        for name, (_, meter) in self._meters.items():
            if sample.startswith(name):
                for suffix, named, value in meter.samples():
                    if name + suffix == sample and dict(named) == labels:
                        return value
        return None

    def text(self) -> str:
        """Return everything in the text format of Prometheus, version 0.0.4."""
        return "".join(self._lines())

    def _lines(self) -> Iterator[str]:
        for name, (text, meter) in self._meters.items():
            yield f"# HELP {name} {text}\n# TYPE {name} {meter.kind}\n"
            for suffix, named, value in meter.samples():
                pairs = ",".join(f'{label}="{_escaped(given)}"' for label, given in named)
                yield f"{name}{suffix}{f'{{{pairs}}}' if pairs else ''} {_number(value)}\n"


def _bounded(labels: Labels, known: Mapping[Labels, object]) -> Labels:
    if labels in known or len(known) < MAX_SERIES:
        return labels
    return (OTHER,) * len(labels)


def _plain(label_names: Labels, values: Mapping[Labels, float]) -> Iterator[Sample]:
    for labels, value in values.items():
        yield "", list(zip(label_names, labels, strict=True)), value


def _escaped(text: str) -> str:
    return text.translate(_ESCAPES)


def _number(value: float) -> str:
    return repr(float(value)).removesuffix(".0")
