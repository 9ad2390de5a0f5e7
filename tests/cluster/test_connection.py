import socket
import time
from pathlib import Path

import pytest
import yaml

from calogan.cluster import connection
from calogan.errors import RequestError, ServiceError


def test_without_a_kubeconfig_the_error_says_what_to_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "missing"))
    with pytest.raises(RequestError, match=r"no way to a cluster .* set KUBECONFIG"):
        connection.connect()


@pytest.fixture
def kubeconfig(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Configuration of a cluster that does not run, with two contexts."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "first",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [
            {"name": "first", "context": {"cluster": "c", "user": "u"}},
            {"name": "second", "context": {"cluster": "c", "user": "u", "namespace": "hep"}},
        ],
    }
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(content))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    return path


def test_the_namespace_is_that_of_the_context(kubeconfig: Path) -> None:
    assert connection.connect() == "default"
    assert connection.connect("second") == "hep"
    with pytest.raises(RequestError, match="third"):
        connection.connect("third")


def test_a_cluster_that_does_not_answer_is_an_error_within_seconds(kubeconfig: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(ServiceError, match="looking for the service in namespace hep: Kubernetes does not answer"):
        connection.find_service(connection.connect("second"))
    assert time.monotonic() - begun < 60


def test_waiting_ends_with_what_was_missing() -> None:
    lines: list[str] = []
    answers = iter(["two of three", ""])
    connection.wait_until("workers", 60, lambda: next(answers), lines.append)
    assert lines == ["workers: two of three"]
    with pytest.raises(ServiceError, match="waited 0 s for workers, but one of three"):
        connection.wait_until("workers", 0, lambda: "one of three", lines.append)
