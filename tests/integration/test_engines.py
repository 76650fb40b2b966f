"""The tests' own engines: what they hand out works, and nothing of them is left."""

from __future__ import annotations

import pytest

from tests.engines.engine import Engine


@pytest.fixture(params=["docker", "podman"])
def engine(request: pytest.FixtureRequest) -> Engine:
    found = request.getfixturevalue(f"{request.param}_engine")
    assert isinstance(found, Engine)
    return found


def test_every_base_image_is_there_and_runs_as_the_user_of_fabrics_images(engine: Engine) -> None:
    for image in engine.images.values():
        status, described = engine.request("GET", f"/images/{image}/json")
        assert status == 200
        assert described["Config"]["User"] == "chaincode"
