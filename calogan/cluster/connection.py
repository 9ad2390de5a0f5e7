"""Connect to Kubernetes: find the service of an installation, read its Secrets, forward its ports."""

import base64
import contextlib
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException
from kubernetes.stream import portforward

from calogan.errors import RequestError, ServiceError

PART_OF = "app.kubernetes.io/part-of=calogan"
GROUP, VERSION, SERVICES = "ray.io", "v1", "rayservices"
_CHUNK = 65536  # bytes
_POLL_S = 2.0

Json = dict[str, Any]


@dataclass(frozen=True)
class Service:
    """A RayService of the chart.

    Attributes:
        namespace: its namespace.
        name: its name.
    """

    namespace: str
    name: str


class Say(Protocol):
    """Shows a line of progress."""

    def __call__(self, text: str, /) -> None:
        """Show it."""


def connect(context: str | None = None) -> str:
    """Use a context of the kubeconfig, or the ServiceAccount of this pod.

    Args:
        context: the context; the current one if None.

    Returns:
        The namespace of the context.

    Raises:
        RequestError: there is no usable kubeconfig, and this is no pod.
    """
    settings = client.Configuration()
    namespace = "default"
    try:
        config.load_kube_config(context=context, client_configuration=settings)
        contexts, current = config.list_kube_config_contexts()
        chosen = next((item for item in contexts if item["name"] == context), current)
        namespace = chosen["context"].get("namespace", namespace)
    except ConfigException as error:
        try:
            config.load_incluster_config(client_configuration=settings)
        except ConfigException:
            raise RequestError(
                f"no way to a cluster ({str(error).strip()}); set KUBECONFIG to its configuration, or name a --context of it"
            ) from error
    settings.retries = 1  # a cluster that does not answer is an error within seconds
    client.Configuration.set_default(settings)
    return str(namespace)


@contextlib.contextmanager
def answering(what: str) -> Iterator[None]:
    """Translate the exceptions of the client into `ServiceError`.

    Args:
        what: what is being done, for the message.
    """
    try:
        yield
    except ApiException as error:
        hint = "; see the permissions in docs/operations.md" if error.status == 403 else ""
        raise ServiceError(f"{what}: Kubernetes answered {error.status} {error.reason}{hint}") from error
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise ServiceError(f"{what}: Kubernetes does not answer ({error})") from error


def find_service(namespace: str, name: str | None = None) -> Service:
    """Find the RayService of the chart in a namespace.

    Raises:
        RequestError: there is none, or several and no name.
        ServiceError: Kubernetes does not answer.
    """
    if name:
        read(Service(namespace, name))
        return Service(namespace, name)
    with answering(f"looking for the service in namespace {namespace}"):
        found = client.CustomObjectsApi().list_namespaced_custom_object(
            GROUP, VERSION, namespace, SERVICES, label_selector=PART_OF
        )
    names = [item["metadata"]["name"] for item in found["items"]]
    if len(names) != 1:
        choice = (
            f"there are {', '.join(names)}; name one with --service" if names else "there is none; give -n NAMESPACE"
        )
        raise RequestError(f"expected one RayService of this chart in namespace {namespace}, but {choice}")
    return Service(namespace, names[0])


def read(service: Service) -> Json:
    """Read the RayService.

    Raises:
        ServiceError: it does not exist, or Kubernetes does not answer.
    """
    with answering(f"reading RayService {service.name} in namespace {service.namespace}"):
        found: Json = client.CustomObjectsApi().get_namespaced_custom_object(
            GROUP, VERSION, service.namespace, SERVICES, service.name
        )
    return found


def pods(service: Service, selector: str = "") -> list[Any]:
    """List pods of the active Ray cluster of the service that are not being deleted."""
    cluster = read(service).get("status", {}).get("activeServiceStatus", {}).get("rayClusterName", "")
    labels = ",".join(filter(None, [f"ray.io/cluster={cluster}", selector]))
    with answering("listing pods"):
        found = client.CoreV1Api().list_namespaced_pod(service.namespace, label_selector=labels).items
    return [pod for pod in found if cluster and pod.metadata.deletion_timestamp is None]


def job_head(service: Service) -> Any:
    """The head of the Ray cluster for jobs of the same installation, or None if it has no such cluster."""
    instance = read(service)["metadata"].get("labels", {}).get("app.kubernetes.io/instance", "")
    labels = f"app.kubernetes.io/component=job-cluster,app.kubernetes.io/instance={instance},ray.io/node-type=head"
    with answering("listing pods"):
        found = client.CoreV1Api().list_namespaced_pod(service.namespace, label_selector=labels).items
    return next((pod for pod in found if pod.metadata.deletion_timestamp is None), None)


def is_ready(pod: Any) -> bool:
    """Whether a pod has passed its readiness probe."""
    return any(state.type == "Ready" and state.status == "True" for state in pod.status.conditions or ())


def environment(service: Service) -> Json:
    """Environment variables of the head, by name: `value` or `valueFrom`."""
    container = read(service)["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    return {entry["name"]: entry for entry in container["env"]}


def secret(namespace: str, name: str, key: str) -> str:
    """Read a value of a Secret.

    Raises:
        ServiceError: there is no such Secret, key or permission.
    """
    with answering(f"reading Secret {name} in namespace {namespace}"):
        data = client.CoreV1Api().read_namespaced_secret(name, namespace).data or {}
    if key not in data:
        raise ServiceError(
            f"Secret {name} in namespace {namespace} has no key {key}; it has {', '.join(data) or 'none'}"
        )
    return base64.b64decode(data[key]).decode().strip()


def variable(service: Service, name: str) -> str | None:
    """Read an environment variable of the head, from its Secret if it is there; None if there is no such variable."""
    entry = environment(service).get(name)
    if entry is None or "value" in entry:
        return entry and str(entry["value"])
    reference = entry["valueFrom"]["secretKeyRef"]
    return secret(service.namespace, reference["name"], reference["key"])


def api_key(service: Service) -> str:
    """Read the key of the endpoint."""
    return str(variable(service, "CALOGAN_API_KEY"))


def ray_token(service: Service, head: Any) -> str:
    """Read the token of Ray: all clusters of an installation share the one of its values, or each has its own."""
    named = read(service)["spec"]["rayClusterConfig"]["authOptions"].get("secretName")
    return secret(service.namespace, named or head.metadata.labels["ray.io/cluster"], "auth_token")


def wait_until(what: str, seconds: float, done: Callable[[], str], say: Say) -> None:
    """Call a function until it returns an empty text.

    Args:
        what: what is waited for.
        seconds: the time limit.
        done: returns what is still missing.
        say: shows it.

    Raises:
        ServiceError: the time is over; the message says what was missing.
    """
    end = time.monotonic() + seconds
    while missing := done():
        if time.monotonic() > end:
            raise ServiceError(f"waited {seconds:g} s for {what}, but {missing}")
        say(f"{what}: {missing}")
        time.sleep(_POLL_S)


@contextlib.contextmanager
def forwarded(namespace: str, pod: str, port: int) -> Iterator[str]:
    """Forward a port of a pod to this machine; yields its address, `http://127.0.0.1:PORT`."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stop = threading.Event()
        listener.settimeout(0.2)
        thread = threading.Thread(target=_accept, args=(listener, stop, namespace, pod, port), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            stop.set()
            thread.join()


def _accept(listener: socket.socket, stop: threading.Event, namespace: str, pod: str, port: int) -> None:
    while not stop.is_set():
        with contextlib.suppress(TimeoutError):
            connection, _ = listener.accept()
            threading.Thread(target=_carry, args=(connection, stop, namespace, pod, port), daemon=True).start()


def _carry(near: socket.socket, stop: threading.Event, namespace: str, pod: str, port: int) -> None:
    """Copy bytes both ways until one side closes; a lost pod looks like a closed connection."""
    with near, contextlib.suppress(ApiException, OSError):
        # A client of its own: the stream replaces the way in which this one sends requests.
        api = client.CoreV1Api(client.ApiClient())
        far = portforward(api.connect_get_namespaced_pod_portforward, pod, namespace, ports=str(port)).socket(port)
        with contextlib.closing(far):
            while not stop.is_set():
                readable, _, _ = select.select([near, far], [], [], 0.5)
                for source, target in ((near, far), (far, near)):
                    if source in readable:
                        data = source.recv(_CHUNK)
                        if not data:
                            return
                        target.sendall(data)
