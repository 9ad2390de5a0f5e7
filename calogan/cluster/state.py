"""The state of a service: its applications, its replicas with their processors and models, its last failures."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import yaml
from kubernetes import client

from calogan.cluster.connection import (
    Json,
    Service,
    answering,
    api_key,
    forwarded,
    is_ready,
    pods,
    read,
)

_ENDPOINT = 8000
_TIMEOUT_S = 60.0
_WORKER = "ray.io/node-type=worker"


@dataclass(frozen=True)
class Replica:
    """A worker pod and what answers there.

    Attributes:
        pod: its name.
        node: node it runs on.
        ready: whether requests go to it.
        isa: integer instructions of its processor, or why it does not answer.
        models: version of the model by precision.
    """

    pod: str
    node: str
    ready: bool
    isa: str
    models: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class State:
    """State of a service.

    Attributes:
        ready: whether KubeRay calls it ready.
        upgrading: whether a second cluster is about to take over.
        applications: status and message of each application of Ray Serve.
        model: the model that is asked for.
        replicas: one for each worker.
        failures: the latest warnings of Kubernetes about its objects.
    """

    ready: bool
    upgrading: bool
    applications: dict[str, str]
    model: str
    replicas: list[Replica]
    failures: list[str]


def state(service: Service) -> State:
    """Read the state of a service.

    Raises:
        ServiceError: it does not exist, or Kubernetes does not answer.
    """
    found = read(service)
    conditions = {item["type"]: item["status"] == "True" for item in found.get("status", {}).get("conditions", ())}
    return State(
        ready=conditions.get("Ready", False),
        upgrading=conditions.get("UpgradeInProgress", False),
        applications=applications(found),
        model=application(serve_config(found))["args"]["model"],
        replicas=replicas(service),
        failures=_failures(service),
    )


def applications(found: Json) -> dict[str, str]:
    """Status of each application of the active cluster, with its message."""
    statuses = found.get("status", {}).get("activeServiceStatus", {}).get("applicationStatuses") or {}
    if not statuses:
        statuses = found.get("status", {}).get("pendingServiceStatus", {}).get("applicationStatuses") or {}
    return {
        name: " ".join([entry.get("status", "?"), entry.get("message", "")]).strip() for name, entry in statuses.items()
    }


def serve_config(found: Json) -> Json:
    """The config of Ray Serve in a RayService."""
    config: Json = yaml.safe_load(found["spec"]["serveConfigV2"])
    return config


def application(config: Json) -> Json:
    """The application of this package in a config of Ray Serve."""
    first: Json = next(
        item for item in config["applications"] if item["import_path"].startswith("calogan.serving.app:")
    )
    return first


def replicas(service: Service) -> list[Replica]:
    """Ask each worker of a service which models it serves, on which processor."""
    key = api_key(service)
    return [_replica(service, pod, key) for pod in pods(service, _WORKER)]


def _replica(service: Service, pod: Any, key: str) -> Replica:
    name, node, ready = pod.metadata.name, pod.spec.node_name or "no node", is_ready(pod)
    if not ready:
        return Replica(name, node, ready, f"not ready: {pod.status.phase}")
    with asking(service, name, key) as http:
        try:
            answer = http.get("/v1/models").raise_for_status().json()
        except (httpx.HTTPError, ValueError) as error:
            return Replica(name, node, ready, f"no answer ({type(error).__name__})")
    return Replica(
        name,
        node,
        ready,
        answer.get("isa", "unknown"),
        {item["precision"]: item["version"] for item in answer["models"]},
    )


@contextlib.contextmanager
def asking(service: Service, pod: str, key: str) -> Iterator[httpx.Client]:
    """Open the endpoint of a worker with its key."""
    headers = {"Authorization": f"Bearer {key}"}
    with (
        forwarded(service.namespace, pod, _ENDPOINT) as url,
        httpx.Client(base_url=url, headers=headers, timeout=_TIMEOUT_S) as http,
    ):
        yield http


def _failures(service: Service, most: int = 5) -> list[str]:
    with answering("listing events"):
        events = client.CoreV1Api().list_namespaced_event(service.namespace, field_selector="type=Warning").items
    ours = [event for event in events if event.involved_object.name.startswith(service.name)]
    ours.sort(key=lambda event: str(event.last_timestamp or event.event_time or ""))
    return [
        f"{event.last_timestamp or event.event_time} {event.involved_object.kind} {event.involved_object.name}: {' '.join(event.message.split())}"
        for event in ours[-most:]
    ]
