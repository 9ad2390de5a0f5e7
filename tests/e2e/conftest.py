"""The cluster of KUBECONFIG, the chart installed there, load on it, and the page of results."""

import contextlib
import datetime as dt
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml
from kubernetes import client

from calogan import provenance
from calogan.cluster import connection
from calogan.cluster.connection import Service, wait_until

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "calogan"
PAGE = ROOT / "docs" / "operations-results.md"
NAMESPACE, RELEASE = "calogan-e2e", "demo"
SERVICE = Service(NAMESPACE, "demo-calogan")
LOAD = (Path(__file__).parent / "load.py").read_text(encoding="utf-8")
READY_S = 900.0
AGAIN = os.environ.get("CALOGAN_E2E") == "again"
KEPT = ROOT / ".e2e" / "results.json"
# Requests that fit two cores, Redis and a log-in; all else is as a user gets it.
VALUES: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "values.yaml").read_text(encoding="utf-8"))
if image := os.environ.get("CALOGAN_E2E_REDIS"):
    VALUES["redis"]["image"] = image

Json = dict[str, Any]


@dataclass
class Load:
    """Requests that are being made."""

    pod: str
    result: Json = field(default_factory=dict)


@dataclass
class Results:
    """Rows of the page: what was done, what came of it. They are kept for a session that goes on with this one."""

    begun: float = field(default_factory=time.monotonic)
    minutes: list[float] = field(default_factory=list)
    loads: list[float] = field(default_factory=list)
    rows: list[tuple[str, str]] = field(default_factory=list)

    def add(self, what: str, result: str) -> None:
        self.rows.append((what, result))

    def load(self) -> None:
        if AGAIN and KEPT.exists():
            kept = json.loads(KEPT.read_text(encoding="utf-8"))
            self.minutes, self.loads = kept["minutes"], kept["loads"]
            self.rows = [(what, result) for what, result in kept["rows"]]

    def save(self) -> None:
        self.minutes.append((time.monotonic() - self.begun) / 60)
        self.loads.append(os.getloadavg()[2])
        KEPT.parent.mkdir(exist_ok=True)
        KEPT.write_text(json.dumps({"minutes": self.minutes, "loads": self.loads, "rows": self.rows}), encoding="utf-8")

    def add_load(self, what: str, load: Json, more: str = "") -> None:
        failed, retried = load["failed at first"], load["failed after retries"]
        text = f"{load['requests']} requests: {retried} failed, {failed} without retries"
        reasons = ", ".join(f"{count} x {reason}" for reason, count in load["reasons"].items())
        text += f" ({reasons})" if reasons else ""
        text += f"; longest time without an answer {load['longest gap']:.1f} s"
        self.add(what, f"{text}{'; ' if more else ''}{more}")


@pytest.fixture(scope="session")
def cluster() -> Any:
    """Helm for an empty namespace of the cluster."""
    if not os.environ.get("CALOGAN_E2E"):
        pytest.skip("CALOGAN_E2E is not set: make e2e installs the chart in the cluster of KUBECONFIG")
    connection.connect()
    core = client.CoreV1Api()
    helm = helm_python.Config(kubeconfig_path=os.environ["KUBECONFIG"], namespace=NAMESPACE)
    RESULTS.load()
    if AGAIN and exists(NAMESPACE):
        return helm
    if exists(NAMESPACE):
        uninstall(helm)
        core.delete_namespace(NAMESPACE)
    wait_until("an empty namespace", 300, lambda: "it is there" if exists(NAMESPACE) else "", quiet)
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=NAMESPACE, labels=labels)))
    return helm


def uninstall(helm: helm_python.Config) -> None:
    """Uninstall the release and wait for its Ray clusters to go.

    KubeRay clears Redis with a Job, which it could not make in a namespace that is being deleted.
    """
    with contextlib.suppress(helm_python.errors.HelmNotFoundError):
        helm.uninstall(RELEASE, timeout=300)

    def missing() -> str:
        found = client.CustomObjectsApi().list_namespaced_custom_object("ray.io", "v1", NAMESPACE, "rayclusters")[
            "items"
        ]
        return f"{len(found)} are there" if found else ""

    wait_until("the Ray clusters to go", 600, missing, quiet)


def exists(namespace: str) -> bool:
    return namespace in {item.metadata.name for item in client.CoreV1Api().list_namespace().items}


def with_values(values: Json) -> Json:
    """Values on top of those of all tests."""

    def merged(first: Json, second: Json) -> Json:
        both = {key: merged(first[key], value) for key, value in second.items() if isinstance(first.get(key), dict)}
        return first | second | both

    return merged(VALUES, values)


class Installation:
    """The release, and what is done with it."""

    namespace, release, service = NAMESPACE, RELEASE, SERVICE

    def __init__(self, helm: helm_python.Config, results: Results) -> None:
        self.helm, self.results = helm, results
        self._installed = False
        with contextlib.suppress(helm_python.errors.HelmNotFoundError):
            helm.status(RELEASE)
            self._installed = True

    def upgrade(self, values: Json) -> None:
        """Install or upgrade the release with values."""
        change = self.helm.upgrade if self._installed else self.helm.install
        change(str(CHART), RELEASE, with_values(values), namespace=NAMESPACE)
        self._installed = True

    def remove(self) -> None:
        """Uninstall the release, and wait until its pods are gone."""
        uninstall(self.helm)

        def missing() -> str:
            found = client.CoreV1Api().list_namespaced_pod(NAMESPACE, label_selector=connection.PART_OF).items
            return f"{len(found)} are there" if found else ""

        wait_until("the pods to go", 300, missing, quiet)

    def workers(self) -> list[Any]:
        """Workers that are ready, of the active Ray cluster."""
        return [pod for pod in connection.pods(SERVICE, "ray.io/node-type=worker") if connection.is_ready(pod)]

    def head(self) -> str:
        """Name of the pod of the head."""
        return str(connection.pods(SERVICE, "ray.io/node-type=head")[0].metadata.name)

    def cluster_name(self) -> str:
        """Name of the active Ray cluster."""
        return str(connection.read(SERVICE).get("status", {}).get("activeServiceStatus", {}).get("rayClusterName", ""))

    def pending(self) -> list[str]:
        """Names of workers for which there is no node."""
        found = client.CoreV1Api().list_namespaced_pod(
            NAMESPACE, label_selector="ray.io/node-type=worker", field_selector="status.phase=Pending"
        )
        return [pod.metadata.name for pod in found.items if pod.spec.node_name is None]

    def job_workers(self) -> list[str]:
        """Names of workers of the cluster for jobs."""
        labels = "app.kubernetes.io/component=job-cluster,ray.io/node-type=worker"
        return [
            pod.metadata.name for pod in client.CoreV1Api().list_namespaced_pod(NAMESPACE, label_selector=labels).items
        ]

    def job_head_ready(self) -> bool:
        """Whether the cluster for jobs takes jobs."""
        head = connection.job_head(SERVICE)
        return head is not None and connection.is_ready(head)

    @contextlib.contextmanager
    def labelled(self, label: str) -> Iterator[None]:
        """Give all nodes a label, as Node Feature Discovery does, while the block runs."""
        core = client.CoreV1Api()
        nodes = [node.metadata.name for node in core.list_node().items]
        try:
            for node in nodes:
                core.patch_node(node, {"metadata": {"labels": {label: "true"}}})
            yield
        finally:
            for node in nodes:
                core.patch_node(node, {"metadata": {"labels": {label: None}}})

    @contextlib.contextmanager
    def without_secret(self, name: str) -> Iterator[None]:
        """Take a Secret away while the block runs."""
        core = client.CoreV1Api()
        kept = core.read_namespaced_secret(name, NAMESPACE)
        core.delete_namespaced_secret(name, NAMESPACE)
        try:
            yield
        finally:
            kept.metadata.resource_version = kept.metadata.uid = None
            core.create_namespaced_secret(NAMESPACE, kept)

    def wait_for_workers(self, number: int, seconds: float = READY_S) -> float:
        """Wait until exactly this many workers are ready; returns the seconds."""
        begun = time.monotonic()

        def missing() -> str:
            count = len(self.workers())
            return "" if count == number else f"{count} are ready"

        wait_until(f"{number} workers", seconds, missing, quiet)
        return time.monotonic() - begun

    def wait_until_ready(self) -> float:
        """Wait until KubeRay calls the service ready; returns the seconds."""
        begun = time.monotonic()

        def missing() -> str:
            conditions = connection.read(SERVICE).get("status", {}).get("conditions", ())
            ready = any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)
            return "" if ready else "it is not"

        wait_until("the service to be ready", READY_S, missing, quiet)
        return time.monotonic() - begun

    @contextlib.contextmanager
    def load(self, seconds: float, threads: int = 2) -> Iterator[Load]:
        """Make requests from a pod of the cluster while the block runs, and for so many seconds at least."""
        core = client.CoreV1Api()
        running = Load(f"load-{time.monotonic_ns()}")
        core.create_namespaced_pod(NAMESPACE, load_pod(running.pod, seconds, threads))

        def phase() -> str:
            return str(core.read_namespaced_pod(running.pod, NAMESPACE).status.phase)

        try:
            wait_until("the load", 180, lambda: "" if phase() == "Running" else "its pod does not run", quiet)
            time.sleep(5)
            yield running
            wait_until("the load's end", seconds + 300, lambda: "it runs" if phase() == "Running" else "", quiet)
            # As it is: the client would turn what looks like JSON into Python's own notation.
            log = core.read_namespaced_pod_log(running.pod, NAMESPACE, _preload_content=False)
            running.result = json.loads(log.data.decode().strip().splitlines()[-1])
        finally:
            core.delete_namespaced_pod(running.pod, NAMESPACE, grace_period_seconds=0)


def quiet(text: str) -> None:
    """Show nothing while waiting."""


RESULTS = Results()


@pytest.fixture(scope="session")
def e2e(cluster: helm_python.Config) -> Installation:
    """The release."""
    return Installation(cluster, RESULTS)


def pytest_sessionfinish(exitstatus: int) -> None:
    """Write the page; what failed is on it, and a session that was stopped can be gone on with."""
    if exitstatus in {0, 1, 2} and RESULTS.rows and os.environ.get("CALOGAN_E2E") in {"page", "again"}:
        RESULTS.save()
        write_page(RESULTS)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep what failed for the page."""
    if report.failed:
        RESULTS.add(f"`{report.nodeid.rpartition('::')[2]}`", "**failed**")


def load_pod(name: str, seconds: float, threads: int) -> Json:
    head = connection.read(SERVICE)["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]
    url = f"http://{SERVICE.name}-serve-svc:8000/v1/showers"
    container = {
        "name": "load",
        "image": head["containers"][0]["image"],
        "command": ["python", "-c", LOAD, url, str(seconds), str(threads)],
        "env": [connection.environment(SERVICE)["CALOGAN_API_KEY"]],
        "securityContext": head["containers"][0]["securityContext"],
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}},
    }
    spec = {"restartPolicy": "Never", "securityContext": head["securityContext"], "containers": [container]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def write_page(found: Results) -> None:
    """Write docs/operations-results.md."""
    operator = client.CoreV1Api().list_pod_for_all_namespaces(
        label_selector="app.kubernetes.io/component=kuberay-operator"
    )
    version = os.environ.get("CALOGAN_KUBERAY") or operator.items[0].spec.containers[0].image.rpartition(":")[2]
    node = client.CoreV1Api().list_node().items
    sessions = "session" if len(found.minutes) == 1 else "sessions"
    lines = [
        "# Operation: results",
        "",
        f"What `make e2e` measured on {dt.datetime.now(dt.UTC):%Y-%m-%d}. Do not edit.",
        "",
        (
            f"Kubernetes {client.VersionApi().get_code().git_version}, KubeRay {version}, {len(node)} node with "
            f"{node[0].status.capacity['cpu']} cores; {provenance.cpu()['model']}. calogan {provenance.git_commit()}."
        ),
        "",
        "Two clients ask all the time for 10 int8 showers. They repeat a request that failed, after a second, with its seed;",
        "*without retries* counts clients that would not.",
        "",
        "| what happened | result |",
        "|---|---|",
        *(f"| {what} | {result} |" for what, result in found.rows),
        "",
        (
            f"Everything took {sum(found.minutes):.0f} minutes, in {len(found.minutes)} {sessions}. The load of the machine over the "
            f"last quarter of an hour was then {', '.join(f'{load:.0f}' for load in found.loads)}."
        ),
    ]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")
