"""docs/operations.md lists what there is."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry

from peer.metrics import Metrics
from tests.unit.test_documents import NOTHING, body, section, text

PAGE = "docs/operations.md"


def test_every_metric_is_listed() -> None:
    registry = Metrics().registry
    listed = {
        name: (kind, () if labels == NOTHING else tuple(re.findall(r"`(\w+)`", labels)))
        for names, kind, _, labels in body(section(PAGE, "Metrics"))
        for name in re.findall(r"`(\w+)`", names)
    }
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", registry.text(), re.MULTILINE))
    assert listed == {name: (kinds[name], labels) for name, labels in registry.names.items()}


def test_the_recipe_for_programs_with_metrics_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code = text(PAGE).split("```python\n")[1].partition("```")[0]
    registry = CollectorRegistry()
    monkeypatch.setattr("prometheus_client.REGISTRY", registry)
    exec(code, {"peer": SimpleNamespace(metrics=Metrics("1.0").registry)})
    assert registry.get_sample_value("fabric_version", {"version": "1.0"}) == 1
    assert registry.get_sample_value("endorser_proposals_received_total") == 0
