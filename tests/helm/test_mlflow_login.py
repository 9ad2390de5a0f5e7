"""MLflow with a log-in, as the chart starts it: the rendered command and environment, run on this machine."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import helm_python
import httpx
import mlflow
import pytest
import yaml

CHART = Path(__file__).parents[2] / "helm" / "calogan"
ACCOUNT = {"username": "admin", "password": "a long password", "secretKey": "signs forms"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Address of the server; its volume and /tmp are folders of the test."""
    with helm_python.Chart.load(CHART) as chart:
        rendered = chart.render({"mlflow": {"login": {"enabled": True}, "workers": 1}}, name="demo")
    pod = yaml.safe_load(rendered["calogan/templates/mlflow-deployment.yaml"])["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    def here(text: str) -> str:
        return text.replace("/mlflow/", f"{tmp_path}/").replace("/tmp/login", f"{tmp_path}/login")  # noqa: S108 - as it is

    changes = {"--host=0.0.0.0": "--host=127.0.0.1", "--port=5000": f"--port={port}"}
    command = [changes.get(part, part) for part in container["command"]]
    variables = {
        entry["name"]: here(entry["value"]) if "value" in entry else ACCOUNT[entry["valueFrom"]["secretKeyRef"]["key"]]
        for entry in container["env"]
    }
    variables |= {"HOME": str(tmp_path), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=variables, stdout=log, stderr=log, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            assert process.poll() is None, (tmp_path / "log").read_text()
            try:
                if httpx.get(f"{url}/health", timeout=5).status_code == httpx.codes.OK:
                    break
            except httpx.HTTPError:
                time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.timeout(180)
def test_it_answers_those_who_log_in_and_nobody_else(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    search = f"{server}/api/2.0/mlflow/experiments/search?max_results=1"
    assert httpx.get(f"{server}/health").status_code == httpx.codes.OK, "for the probes"
    assert httpx.get(search).status_code == httpx.codes.UNAUTHORIZED
    assert httpx.get(search, auth=("admin", "password1234")).status_code == httpx.codes.UNAUTHORIZED
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", ACCOUNT["username"])
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", ACCOUNT["password"])
    client = mlflow.MlflowClient(server, server)
    experiment = client.create_experiment("showers")
    run = client.create_run(experiment)
    client.log_text(run.info.run_id, "logged in", "note.txt")
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["note.txt"]
