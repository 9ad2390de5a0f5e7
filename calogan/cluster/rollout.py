"""Change a running service: roll out a version of a model, roll it back, scale."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import httpx
import yaml
from kubernetes import client

from calogan.cluster.connection import (
    GROUP,
    SERVICES,
    VERSION,
    Json,
    Say,
    Service,
    answering,
    api_key,
    environment,
    forwarded,
    read,
    variable,
    wait_until,
)
from calogan.cluster.state import Replica, application, applications, asking, replicas, serve_config
from calogan.errors import GateError, RequestError, ServiceError

PREVIOUS = "calogan/previous-model"  # annotation of the RayService
_FAILED = ("DEPLOY_FAILED", "UNHEALTHY")
_ACCOUNT = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
_MLFLOW = "app.kubernetes.io/component=mlflow"
_GOLDEN = {"energies": [10.0, 100.0, 400.0], "seed": 1}


@dataclass(frozen=True)
class Candidate:
    """A version of a model that may be served.

    Attributes:
        uri: `models:/NAME/VERSION`.
        contents: `ModelDescription.version` by precision: what `/v1/models` gives.
    """

    uri: str
    contents: Mapping[str, str]


def promote(service: Service, model: str, *, seconds: float, say: Say) -> Candidate:
    """Serve a version of a model; the one before it is served again if that fails.

    Args:
        service: the service.
        model: NAME@VERSION, NAME@ALIAS or `models:/NAME/VERSION`.
        seconds: time limit for each of roll-out and roll-back.
        say: shows progress.

    Raises:
        GateError: the version has not passed its gates.
        ModelError: there is no such version, or it lacks a precision that is served.
        ServiceError: the roll-out failed, and what happened then.
    """
    found = read(service)
    before = application(serve_config(found))["args"]["model"]
    precisions = application(serve_config(found))["args"].get("precisions", ["int8", "float32"])
    with registry_of(service):
        candidate = _candidate(model, precisions)
        old = _contents(before, precisions)
    say(f"{candidate.uri} has passed its gates in {', '.join(precisions)}")
    if candidate.uri == before:
        raise RequestError(f"{before} is what is asked for already")
    try:
        _serve(service, candidate.uri, previous=before)
        _wait(service, candidate.contents, seconds, say, give_up=True)
    except (ServiceError, KeyboardInterrupt) as error:
        say(f"rolling back to {before}")
        _serve(service, before, previous=found["metadata"].get("annotations", {}).get(PREVIOUS, ""))
        try:
            _wait(service, old, seconds, say)
        except ServiceError as second:
            raise ServiceError(f"{error}; and then {before} could not be rolled back to: {second}") from second
        if isinstance(error, KeyboardInterrupt):
            raise
        raise ServiceError(f"{error}; {before} is served again") from error
    return candidate


def rollback(service: Service, *, seconds: float, say: Say) -> str:
    """Serve the model from before the last promotion.

    Raises:
        RequestError: there was none.
        ServiceError: the time is over.
    """
    found = read(service)
    previous = found["metadata"].get("annotations", {}).get(PREVIOUS)
    if not previous:
        raise RequestError("no promotion is recorded, so there is no model to roll back to; promote the one you want")
    current = application(serve_config(found))["args"]
    with registry_of(service):
        contents = _contents(previous, current.get("precisions", ["int8", "float32"]))
    _serve(service, previous, previous=current["model"])
    _wait(service, contents, seconds, say)
    return str(previous)


def scale(service: Service, least: int, most: int, *, seconds: float, say: Say) -> int:
    """Set the numbers of replicas of a running service, and wait for them.

    Args:
        service: the service.
        least: replicas that always run.
        most: replicas at most.
        seconds: time limit.
        say: shows progress.

    Returns:
        The number of replicas that are ready.

    Raises:
        RequestError: the numbers cannot be.
        ServiceError: the time is over.
    """
    found = read(service)
    config = serve_config(found)
    workers = found["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["maxReplicas"]
    if not 1 <= least <= most <= workers:
        raise RequestError(
            f"expected 1 <= replicas <= --max <= {workers} (ray.worker.maxWorkers), got {least} and {most}"
        )
    (deployment,) = application(config)["deployments"]
    deployment.setdefault("autoscaling_config", {}).update(min_replicas=least, max_replicas=most)
    deployment.pop("num_replicas", None)
    _patch(service, {"spec": {"serveConfigV2": yaml.safe_dump(config, sort_keys=False)}})
    ready: list[Replica] = []

    def missing() -> str:
        ready[:] = [replica for replica in replicas(service) if replica.models]
        return "" if least <= len(ready) <= most else f"{len(ready)} answer"

    wait_until(f"{least} to {most} replicas", seconds, missing, say)
    return len(ready)


def _serve(service: Service, model: str, *, previous: str) -> None:
    config = serve_config(read(service))
    application(config)["args"]["model"] = model
    _patch(
        service,
        {
            "metadata": {"annotations": {PREVIOUS: previous}},
            "spec": {"serveConfigV2": yaml.safe_dump(config, sort_keys=False)},
        },
    )


def _patch(service: Service, change: Json) -> None:
    """Change annotations and spec of a RayService.

    Helm 4 applies what it owns: what somebody else had changed would stop the next `helm upgrade` as a conflict. So the
    change is applied in its name.
    """
    objects = client.CustomObjectsApi()
    with answering(f"changing RayService {service.name}"):
        current = read(service)
        owner = next((entry["manager"] for entry in current["metadata"]["managedFields"] if _applied(entry)), None)
        if owner is None:
            objects.patch_namespaced_custom_object(GROUP, VERSION, service.namespace, SERVICES, service.name, change)
            return
        metadata = {key: current["metadata"].get(key, {}) for key in ("labels", "annotations")}
        metadata["annotations"] = metadata["annotations"] | change.get("metadata", {}).get("annotations", {})
        whole = {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": "RayService",
            "metadata": metadata | {"name": service.name, "namespace": service.namespace},
            "spec": current["spec"] | change["spec"],
        }
        objects.patch_namespaced_custom_object(
            GROUP,
            VERSION,
            service.namespace,
            SERVICES,
            service.name,
            whole,
            field_manager=owner,
            force=True,
            _content_type="application/apply-patch+yaml",
        )


def _applied(entry: Json) -> bool:
    return entry["operation"] == "Apply" and "f:spec" in entry["fieldsV1"]


def _wait(service: Service, contents: Mapping[str, str], seconds: float, say: Say, *, give_up: bool = False) -> None:
    """Wait until each worker serves these versions, and makes showers with them.

    Args:
        service: the service.
        contents: `ModelDescription.version` by precision.
        seconds: time limit.
        say: shows progress.
        give_up: whether to stop waiting when the application has failed; right after a change, it may still be called
            failed because of what was there before.
    """
    key = api_key(service)

    def missing() -> str:
        failed = [text for text in applications(read(service)).values() if text.startswith(_FAILED)]
        if failed and give_up:
            raise ServiceError(f"the application is {failed[0]}")
        answering_now = replicas(service)
        ready = [replica for replica in answering_now if replica.models]
        new = [replica for replica in ready if replica.models == contents]
        if not ready or len(new) < len(ready):
            return f"{len(new)} of {len(answering_now)} workers serve it"
        return next(filter(None, (_golden(service, replica, contents, key) for replica in new)), "")

    wait_until("the roll-out", seconds, missing, say)


def _golden(service: Service, replica: Replica, contents: Mapping[str, str], key: str) -> str:
    with asking(service, replica.pod, key) as http:
        for precision, content in contents.items():
            try:
                answer = http.post("/v1/showers", json=_GOLDEN | {"precision": precision}).raise_for_status()
            except httpx.HTTPError as error:
                return f"{replica.pod} does not make {precision} showers ({error})"
            if answer.headers.get("X-Model-Version") != content:
                return f"{replica.pod} makes {precision} showers of another version"
    return ""


@contextlib.contextmanager
def registry_of(service: Service) -> Iterator[None]:
    """Use the MLflow server of the service: through its pod, or at its address if that is elsewhere."""
    import mlflow  # noqa: PLC0415 - takes seconds

    address = environment(service)["MLFLOW_TRACKING_URI"]["value"]
    name = address.removeprefix("http://").partition(":")[0]
    with answering("looking for MLflow"):
        found = client.CoreV1Api().list_namespaced_pod(service.namespace, label_selector=_MLFLOW).items
    ours = [pod.metadata.name for pod in found if pod.metadata.name.startswith(name)]
    with contextlib.ExitStack() as stack:
        if ours:
            address = stack.enter_context(forwarded(service.namespace, ours[0], 5000))
        previous = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(address)
        stack.callback(mlflow.set_tracking_uri, previous)
        stack.enter_context(_account(service))
        yield


@contextlib.contextmanager
def _account(service: Service) -> Iterator[None]:
    """Log in to MLflow as the pods do; it reads name and password from the environment."""
    before = {name: os.environ.get(name) for name in _ACCOUNT}
    given = {name: variable(service, name) for name in _ACCOUNT}
    try:
        os.environ.update({name: value for name, value in given.items() if value})
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _candidate(model: str, precisions: Sequence[str]) -> Candidate:
    from calogan.tracking import registry  # noqa: PLC0415

    uri = model if model.startswith("models:/") else f"models:/{model}"
    name, _, version = uri.rpartition("@")
    if name and version.isdecimal():
        uri = f"{name}/{version}"
    pinned = {precision: registry.pin(uri, precision) for precision in precisions}
    for precision, version in pinned.items():
        verdict = registry.version_tags(version).get(registry.GATES, "are not recorded")
        if verdict != registry.PASSED:
            raise GateError(f"{version} ({precision}) is not promoted: its gates {verdict}")
    return Candidate(next(iter(pinned.values())), _contents(uri, precisions))


def _contents(uri: str, precisions: Sequence[str]) -> dict[str, str]:
    """`ModelDescription.version` of each precision of a served model."""
    if not uri.startswith("models:/"):
        from calogan.generation import model_folder  # noqa: PLC0415

        description = model_folder.read(model_folder.find(uri))
        return {precision: description.version(precision) for precision in precisions}
    from calogan.tracking import registry  # noqa: PLC0415

    return {
        precision: registry.version_tags(registry.pin(uri, precision)).get(registry.CONTENT, "")
        for precision in precisions
    }
