"""What an installation needs of its cluster: each missing thing with the command that mends it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from kubernetes import client
from kubernetes.client.exceptions import ApiException

from calogan.cluster.connection import PART_OF, answering

_ISA_LABELS = ("AMXINT8", "AVX512VNNI", "AVXVNNI")
_NFD = "feature.node.kubernetes.io/cpu-cpuid."
_OPERATOR = "app.kubernetes.io/component=kuberay-operator"
_OLDEST = (1, 28)
_PERMISSIONS = (
    ("ray.io", "rayservices", "get"),
    ("ray.io", "rayservices", "patch"),
    ("", "pods", "list"),
    ("", "pods/portforward", "create"),
    ("", "secrets", "get"),
)


@dataclass(frozen=True)
class Finding:
    """One thing that was checked.

    Attributes:
        what: the thing.
        fine: True if it is there, False if it is missing, None if the installation works without it.
        found: what was found.
        remedy: the command that mends it, or empty.
    """

    what: str
    fine: bool | None
    found: str
    remedy: str = ""


def check(namespace: str) -> list[Finding]:
    """Check a cluster for what the chart needs, before or after it is installed.

    Raises:
        ServiceError: Kubernetes does not answer.
    """
    with answering("reading the version of Kubernetes"):
        version = client.VersionApi().get_code()
    number = (int(version.major), int(version.minor.rstrip("+")))
    findings = [
        Finding("Kubernetes", number >= _OLDEST, version.git_version, "" if number >= _OLDEST else "use 1.28 or newer")
    ]
    for what, look in (
        ("KubeRay's CRDs", _crds),
        ("KubeRay's operator", _operator),
        ("storage class", _storage_class),
        ("DNS", _dns),
        ("int8 processors", _processors),
    ):
        findings.append(_one(what, look))
    findings.append(_one("Secrets", lambda: _secrets(namespace)))
    return [*findings, *_permissions(namespace)]


def _one(what: str, look: Callable[[], tuple[bool | None, str, str]]) -> Finding:
    try:
        return Finding(what, *look())
    except ApiException as error:
        return Finding(what, None, f"not allowed to look ({error.status} {error.reason})")


def _crds() -> tuple[bool | None, str, str]:
    found = {
        item.metadata.name
        for item in client.ApiextensionsV1Api().list_custom_resource_definition().items
        if item.spec.group == "ray.io"
    }
    missing = [kind for kind in ("rayclusters", "rayjobs", "rayservices") if f"{kind}.ray.io" not in found]
    if missing:
        return False, f"missing: {', '.join(missing)}", "helm install kuberay-operator kuberay/kuberay-operator"
    return True, ", ".join(sorted(name.removesuffix(".ray.io") for name in found)), ""


def _operator() -> tuple[bool | None, str, str]:
    found = client.AppsV1Api().list_deployment_for_all_namespaces(label_selector=_OPERATOR).items
    pods = client.CoreV1Api().list_pod_for_all_namespaces(label_selector=_OPERATOR).items
    ready = [pod for pod in pods if pod.status.phase == "Running"]
    if not ready:
        where = f", but its Deployment {found[0].metadata.name} is" if found else ""
        return False, f"no pod with the label {_OPERATOR} runs{where}", "kubectl get pod -A -l " + _OPERATOR
    image = ready[0].spec.containers[0].image
    return True, f"{image} in namespace {ready[0].metadata.namespace}", ""


def _storage_class() -> tuple[bool | None, str, str]:
    classes = client.StorageV1Api().list_storage_class().items
    default = "storageclass.kubernetes.io/is-default-class"
    chosen = [item.metadata.name for item in classes if (item.metadata.annotations or {}).get(default) == "true"]
    if chosen:
        return True, f"{chosen[0]} is the default", ""
    volumes = [
        item.metadata.name
        for item in client.CoreV1Api().list_persistent_volume().items
        if item.status.phase != "Released"
    ]
    if volumes:
        return None, f"no default class, but the volumes {', '.join(volumes)}", ""
    names = ", ".join(item.metadata.name for item in classes) or "none"
    return False, f"no default; there are: {names}", "set mlflow.persistence.storageClassName to one of them"


def _dns() -> tuple[bool | None, str, str]:
    labels = "k8s-app=kube-dns"
    running = [
        pod.metadata.name
        for pod in client.CoreV1Api().list_pod_for_all_namespaces(label_selector=labels).items
        if pod.status.phase == "Running"
    ]
    if running:
        return True, ", ".join(running), ""
    return None, f"no pod with the label {labels}", "set networkPolicy.dns to the pods that serve DNS"


def _processors() -> tuple[bool | None, str, str]:
    nodes = client.CoreV1Api().list_node().items
    counts = {label: sum(f"{_NFD}{label}" in (node.metadata.labels or {}) for node in nodes) for label in _ISA_LABELS}
    if any(counts.values()):
        return True, ", ".join(f"{count} of {len(nodes)} nodes with {label}" for label, count in counts.items()), ""
    return None, "no node has labels of Node Feature Discovery", "helm install nfd nfd/node-feature-discovery"


def _secrets(namespace: str) -> tuple[bool | None, str, str]:
    core = client.CoreV1Api()
    containers = [
        container
        for pod in core.list_namespaced_pod(namespace, label_selector=PART_OF).items
        for container in pod.spec.containers
    ]
    sources = [
        variable.value_from for container in containers for variable in container.env or () if variable.value_from
    ]
    wanted = {(source.secret_key_ref.name, source.secret_key_ref.key) for source in sources if source.secret_key_ref}
    if not wanted:
        return None, f"nothing in namespace {namespace} asks for one yet", ""
    missing = [f"{name} (key {key})" for name, key in sorted(wanted) if not _has(core, namespace, name, key)]
    if missing:
        example = missing[0].partition(" ")[0]
        return False, f"missing: {', '.join(missing)}", f"kubectl -n {namespace} create secret generic {example} ..."
    return True, ", ".join(sorted({name for name, _ in wanted})), ""


def _has(core: client.CoreV1Api, namespace: str, name: str, key: str) -> bool:
    try:
        return key in (core.read_namespaced_secret(name, namespace).data or {})
    except ApiException as error:
        if error.status != 404:
            raise
        return False


def _permissions(namespace: str) -> Iterator[Finding]:
    for group, resource, verb in _PERMISSIONS:
        name, _, sub = resource.partition("/")
        attributes = client.V1ResourceAttributes(
            namespace=namespace, group=group, resource=name, subresource=sub or None, verb=verb
        )
        review: Any = client.V1SelfSubjectAccessReview(
            spec=client.V1SelfSubjectAccessReviewSpec(resource_attributes=attributes)
        )
        with answering("asking for permissions"):
            allowed = client.AuthorizationV1Api().create_self_subject_access_review(review).status.allowed
        if not allowed:
            yield Finding(f"permission to {verb} {resource}", False, f"denied in {namespace}", "see docs/operations.md")
    yield Finding("permissions", True, f"asked for {len(_PERMISSIONS)} in namespace {namespace}")
