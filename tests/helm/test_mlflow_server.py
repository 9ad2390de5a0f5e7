"""MLflow as the chart starts it, with a log-in and with files in S3: the rendered command, run on this machine."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import helm_python
import httpx
import mlflow
import pytest
import yaml

CHART = Path(__file__).parents[2] / "helm" / "calogan"
BUCKET = "calogan"
SECRETS = {
    "username": "admin",
    "password": "a long password",
    "secretKey": "signs forms",
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def running(command: list[str], url: str, folder: Path, environment: dict[str, str]) -> Iterator[None]:
    """Run a server, and wait until it answers at this address."""
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        for _ in range(600):
            assert process.poll() is None, (folder / "log").read_text()
            try:
                if httpx.get(url, timeout=5).is_success:
                    break
            except httpx.HTTPError:
                time.sleep(0.2)
        yield
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[str]:
    """Address of an S3 server with an empty bucket."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with running(command, url, tmp_path, dict(os.environ)):
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
        boto3.client("s3", endpoint_url=url, **keys).create_bucket(Bucket=BUCKET)
        yield url


@pytest.fixture
def server(tmp_path: Path, bucket: str) -> Iterator[str]:
    """Address of MLflow; its volume and /tmp are folders of the test."""
    artifacts = {"uri": f"s3://{BUCKET}/mlflow", "endpoint": bucket, "existingSecret": "bucket"}
    values = {"login": {"enabled": True}, "workers": 1, "artifacts": artifacts}
    with helm_python.Chart.load(CHART) as chart:
        rendered = chart.render({"mlflow": values, "networkPolicy": {"enabled": False}}, name="demo")
    pod = yaml.safe_load(rendered["calogan/templates/mlflow-deployment.yaml"])["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    port = free_port()

    def here(text: str) -> str:
        return text.replace("sqlite:////mlflow", f"sqlite:///{tmp_path}").replace("/tmp/", f"{tmp_path}/")  # noqa: S108 - as it is

    changes = {"--host=0.0.0.0": "--host=127.0.0.1", "--port=5000": f"--port={port}"}
    command = [changes.get(part, part) for part in container["command"]]
    variables = {
        entry["name"]: here(entry["value"]) if "value" in entry else SECRETS[entry["valueFrom"]["secretKeyRef"]["key"]]
        for entry in container["env"]
    }
    variables |= {"HOME": str(tmp_path), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with running(command, f"http://127.0.0.1:{port}/health", tmp_path, variables):
        yield f"http://127.0.0.1:{port}"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_it_answers_those_who_log_in_and_keeps_files_in_the_bucket(
    server: str, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = f"{server}/api/2.0/mlflow/experiments/search?max_results=1"
    assert httpx.get(search).status_code == httpx.codes.UNAUTHORIZED
    assert httpx.get(search, auth=("admin", "password1234")).status_code == httpx.codes.UNAUTHORIZED
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", SECRETS["username"])
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRETS["password"])
    client = mlflow.MlflowClient(server, server)
    run = client.create_run(client.create_experiment("showers"))
    client.log_text(run.info.run_id, "logged in", "note.txt")
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["note.txt"]
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    (stored,) = boto3.client("s3", endpoint_url=bucket, **keys).list_objects_v2(Bucket=BUCKET)["Contents"]
    assert stored["Key"].startswith("mlflow/")
    assert stored["Key"].endswith("/note.txt")
