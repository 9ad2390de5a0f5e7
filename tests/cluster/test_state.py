from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml

from calogan.cluster import state

CHART = Path(__file__).parents[2] / "helm" / "calogan"


@pytest.fixture(scope="module")
def service() -> dict[str, Any]:
    """The RayService that the chart makes."""
    with helm_python.Chart.load(CHART) as chart:
        rendered = chart.render({}, name="demo")
    content: dict[str, Any] = yaml.safe_load(rendered["calogan/templates/rayservice.yaml"])
    return content


def test_the_application_of_the_chart_is_found(service: dict[str, Any]) -> None:
    arguments = state.application(state.serve_config(service))["args"]
    assert arguments["model"] == "models:/calogan-lean"


def test_applications_of_a_first_cluster_are_shown_before_it_serves(service: dict[str, Any]) -> None:
    assert state.applications(service) == {}
    pending = {"applicationStatuses": {"calogan": {"status": "DEPLOYING"}}}
    assert state.applications(service | {"status": {"pendingServiceStatus": pending}}) == {"calogan": "DEPLOYING"}
    active = {"applicationStatuses": {"calogan": {"status": "UNHEALTHY", "message": "no model"}}}
    both = service | {"status": {"pendingServiceStatus": pending, "activeServiceStatus": active}}
    assert state.applications(both) == {"calogan": "UNHEALTHY no model"}
