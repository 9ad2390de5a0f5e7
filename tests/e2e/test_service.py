"""One installation from its birth to its end. The tests build on each other, in this order."""

import datetime as dt
import time
from typing import Any

import httpx
import mlflow
import pytest
from kubernetes import client

from calogan.cluster import checks, connection, jobs, rollout, state
from calogan.cluster.connection import wait_until
from calogan.errors import RequestError, ServiceError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

MODEL = "models:/calogan-lean/1"


def quiet(text: str) -> None:
    """Show nothing while waiting."""


def test_the_cluster_has_what_the_chart_needs(cluster: Any) -> None:
    findings = checks.check("calogan-e2e")
    assert [finding for finding in findings if finding.fine is False] == []


def test_an_installation_serves_by_itself(e2e: Any) -> None:
    begun = time.monotonic()
    e2e.upgrade({})
    e2e.wait_until_ready()
    seconds = time.monotonic() - begun
    e2e.wait_for_workers(2)
    both = time.monotonic() - begun
    e2e.results.add(
        "`helm install`, images on the node",
        f"ready after {seconds:.0f} s, with two replicas after {both:.0f} s: MLflow started, model validated and registered",
    )


def test_helm_test_passes(e2e: Any) -> None:
    done = e2e.helm.test(e2e.release, logs=True, timeout=300)
    assert "made here are equal to them, bit for bit" in done["logs"]
    e2e.results.add(
        "`helm test`", "showers equal for equal seeds and to those made elsewhere, 401 without a key, MLflow healthy"
    )


def test_the_key_is_kept_by_upgrades(e2e: Any) -> None:
    before, cluster = connection.api_key(e2e.service), e2e.cluster_name()
    e2e.upgrade({})
    assert connection.api_key(e2e.service) == before
    assert e2e.cluster_name() == cluster


def test_every_worker_tells_its_processor_and_its_models(e2e: Any) -> None:
    now = state.state(e2e.service)
    assert now.ready
    assert len(now.replicas) == 2
    assert all(set(replica.models) == {"int8", "float32"} for replica in now.replicas)
    assert all("AVX" in replica.isa for replica in now.replicas)


def test_the_secrets_of_an_installation_are_checked(e2e: Any) -> None:
    (secrets,) = [finding for finding in checks.check(e2e.namespace) if finding.what == "Secrets"]
    assert secrets.fine is True
    assert "demo-calogan-api-key" in secrets.found
    with e2e.without_secret("demo-calogan-mlflow-login"):
        (secrets,) = [finding for finding in checks.check(e2e.namespace) if finding.what == "Secrets"]
    assert secrets.fine is False
    assert "missing: demo-calogan-mlflow-login (key password)" in secrets.found


def test_showers_record_the_commit_of_the_image(e2e: Any) -> None:
    pod, key = e2e.workers()[0].metadata.name, connection.api_key(e2e.service)
    with state.asking(e2e.service, pod, key) as http:
        answer = http.post(
            "/v1/showers", json={"energy": 10.0, "n": 1, "seed": 1}, headers={"Accept": "application/x-hdf5"}
        )
        refused = httpx.get(f"{http.base_url}/v1/models")
    assert answer.status_code == 200
    assert b"git_commit" in answer.content
    assert refused.status_code == 401


def test_a_worker_that_is_killed_costs_no_answer(e2e: Any) -> None:
    with e2e.load(60) as running:
        victim = e2e.workers()[0].metadata.name
        client.CoreV1Api().delete_namespaced_pod(victim, e2e.namespace, grace_period_seconds=0)
        begun = time.monotonic()
        wait_until("its death", 60, lambda: "" if victim not in names(e2e) else "it lives", quiet)
        e2e.wait_for_workers(2)
        seconds = time.monotonic() - begun
    e2e.results.add_load(
        "one of two workers killed at once", running.result, f"a new one answered after {seconds:.0f} s"
    )
    assert running.result["failed after retries"] == 0


def names(e2e: Any) -> list[str]:
    return [pod.metadata.name for pod in e2e.workers()]


def test_a_worker_of_a_drained_node_costs_no_answer(e2e: Any) -> None:
    """As `kubectl drain` does it: workers are evicted, and the budget refuses to evict both at once."""
    core = client.CoreV1Api()
    first, second = names(e2e)

    def evict(name: str) -> int:
        body = client.V1Eviction(metadata=client.V1ObjectMeta(name=name, namespace=e2e.namespace))
        try:
            core.create_namespaced_pod_eviction(name, e2e.namespace, body)
        except client.ApiException as error:
            return int(error.status)
        return 201

    with e2e.load(60) as running:
        assert evict(first) == 201
        assert evict(second) == 429, "the budget"
        wait_until("the eviction", 300, lambda: "" if first not in names(e2e) else "it lives", quiet)
        e2e.wait_for_workers(2)
    e2e.results.add_load(
        "a worker evicted, as by `kubectl drain`", running.result, "the budget refused the second one meanwhile"
    )
    assert running.result["failed after retries"] == 0


def test_the_death_of_the_head_costs_no_answer(e2e: Any) -> None:
    before = {pod.metadata.uid for pod in e2e.workers()}
    with e2e.load(90) as running:
        victim = e2e.head()
        begun = time.monotonic()
        client.CoreV1Api().delete_namespaced_pod(victim, e2e.namespace, grace_period_seconds=0)

        def missing() -> str:
            heads = connection.pods(e2e.service, "ray.io/node-type=head")
            new = [pod for pod in heads if pod.metadata.name != victim and connection.is_ready(pod)]
            return "" if new else "there is none"

        wait_until("a new head", 600, missing, quiet)
        seconds = time.monotonic() - begun
    after = {pod.metadata.uid for pod in e2e.workers()}
    kept = len(before & after)
    e2e.results.add_load(
        "the head killed at once, with Redis",
        running.result,
        f"a new one after {seconds:.0f} s; {kept} of 2 workers stayed",
    )
    assert running.result["failed after retries"] == 0


def test_other_values_are_taken_over_in_place(e2e: Any) -> None:
    cluster = e2e.cluster_name()
    with e2e.load(60) as running:
        e2e.upgrade({"serve": {"maxShowers": 5000}})
        key = connection.api_key(e2e.service)

        def missing() -> str:
            limits = []
            for pod in e2e.workers():
                with state.asking(e2e.service, pod.metadata.name, key) as http:
                    limits.append(http.get("/v1/models").json()["max_showers"])
            return "" if limits and set(limits) == {5000} else f"they are {limits}"

        wait_until("the new limit", 300, missing, quiet)
    assert e2e.cluster_name() == cluster
    e2e.results.add_load("`serve.maxShowers` changed by `helm upgrade`", running.result, "in the running cluster")
    assert running.result["failed after retries"] == 0


def test_a_model_is_promoted_and_rolled_back(e2e: Any) -> None:
    with e2e.load(60) as running:
        served = rollout.promote(e2e.service, MODEL, seconds=300, say=quiet)
        assert served.uri == MODEL
        assert rollout.rollback(e2e.service, seconds=300, say=quiet) == "models:/calogan-lean"
    e2e.results.add_load("model promoted, and rolled back", running.result)
    assert running.result["failed after retries"] == 0


def test_a_model_that_cannot_be_served_is_rolled_back_by_itself(e2e: Any) -> None:
    """Its gates are passed, but its files are gone."""
    with rollout.registry_of(e2e.service):
        registry = mlflow.MlflowClient()
        for precision in ("int8", "float32"):
            tags = {"precision": precision, "gates": "passed", "pipeline": "gone", "content": "gone"}
            broken = registry.create_model_version("calogan-lean", "s3://nowhere/gone", tags=tags)
    with e2e.load(60) as running, pytest.raises(ServiceError, match="is served again"):
        rollout.promote(e2e.service, f"calogan-lean@{broken.version}", seconds=180, say=quiet)
    assert state.state(e2e.service).model == "models:/calogan-lean"
    e2e.results.add_load("a model without files promoted: rolled back by itself", running.result)
    assert running.result["failed after retries"] == 0


def test_replicas_scale_by_command_and_by_upgrade(e2e: Any) -> None:
    e2e.upgrade({"serve": {"minReplicas": 1, "maxReplicas": 1}})
    e2e.wait_for_workers(1)
    cluster = e2e.cluster_name()
    with e2e.load(120) as running:
        begun = time.monotonic()
        assert rollout.scale(e2e.service, 3, 3, seconds=600, say=quiet) == 3
        up = time.monotonic() - begun
        begun = time.monotonic()
        e2e.upgrade({"serve": {"minReplicas": 1, "maxReplicas": 1, "downscaleDelaySeconds": 5}})
        e2e.wait_for_workers(1)
        down = time.monotonic() - begun
    assert e2e.cluster_name() == cluster
    e2e.results.add_load(
        "1 -> 3 replicas by `calogan cluster scale`, -> 1 by `helm upgrade`",
        running.result,
        f"{up:.0f} s up, {down:.0f} s down",
    )
    assert running.result["failed after retries"] == 0
    with pytest.raises(RequestError, match="maxWorkers"):
        rollout.scale(e2e.service, 99, 99, seconds=1, say=quiet)


def test_a_second_cluster_takes_over_once_nodes_have_the_instructions(e2e: Any) -> None:
    """Like another image, `cpu.require` means another Ray cluster; the old one serves while its pods wait for a node."""
    before = e2e.cluster_name()
    with e2e.load(150) as running:
        e2e.upgrade({"cpu": {"require": "amx"}})
        wait_until("workers that wait", 300, lambda: "" if e2e.pending() else "there are none", quiet)
        assert e2e.cluster_name() == before
        begun = time.monotonic()
        with e2e.labelled("feature.node.kubernetes.io/cpu-cpuid.AMXINT8"):
            assert any("AMXINT8" in finding.found for finding in checks.check(e2e.namespace))
            wait_until(
                "the new cluster", 900, lambda: "" if e2e.cluster_name() != before else "the old one serves", quiet
            )
            seconds = time.monotonic() - begun
            e2e.wait_for_workers(2)
    e2e.results.add_load(
        "`cpu.require=amx`: a second cluster, for which a node is labelled, takes over",
        running.result,
        f"{seconds:.0f} s after the label of Node Feature Discovery",
    )
    assert running.result["failed after retries"] == 0


def test_a_job_is_submitted_and_its_output_shown(e2e: Any) -> None:
    job = jobs.submit(e2e.service, ["python", "-c", "print('it is', 6 * 7)"])
    assert "it is 42" in "".join(jobs.follow(e2e.service, job))
    with pytest.raises(ServiceError, match="failed"):
        "".join(jobs.follow(e2e.service, jobs.submit(e2e.service, ["false"])))
    with pytest.raises(RequestError, match="there is no job"):
        list(jobs.follow(e2e.service, "nobody"))
    logs = dict(jobs.replica_logs(e2e.service))
    assert len(logs) == 2
    assert all("ShowerService" in text for text in logs.values())


# What a job that was submitted runs: a task that needs a core, and what the cluster has then.
TASK = """
import ray
ray.init(logging_level="ERROR")
where = ray.get(ray.remote(num_cpus=1)(lambda: ray.util.get_node_ip_address()).remote())
print("the task ran on a worker:", where != ray.util.get_node_ip_address())
"""


def test_jobs_that_are_submitted_have_a_cluster_that_starts_workers_for_them(e2e: Any) -> None:
    cluster = {"enabled": True, "cpus": 1, "cpuRequest": "150m", "memory": "2Gi", "idleSeconds": 10}
    values = {"storage": {"enabled": True}, "serve": {"minReplicas": 1, "maxReplicas": 1}}
    e2e.upgrade(values | {"jobCluster": cluster})
    wait_until("its head", 600, lambda: "" if e2e.job_head_ready() else "it is not ready", quiet)
    assert e2e.job_workers() == []
    begun = time.monotonic()
    output = "".join(jobs.follow(e2e.service, jobs.submit(e2e.service, ["python", "-c", TASK])))
    seconds = time.monotonic() - begun
    assert "the task ran on a worker: True" in output
    assert len(e2e.job_workers()) == 1
    begun = time.monotonic()
    wait_until("no worker", 300, lambda: f"there is {found}" if (found := e2e.job_workers()) else "", quiet)
    e2e.results.add(
        "`calogan cluster submit` with `jobCluster.enabled`",
        f"none -> 1 worker for the job, which ended after {seconds:.0f} s, -> none after {time.monotonic() - begun:.0f} s",
    )


def status_of(e2e: Any, name: str) -> dict[str, Any]:
    """Status of a RayJob."""
    found = client.CustomObjectsApi().get_namespaced_custom_object("ray.io", "v1", e2e.namespace, "rayjobs", name)
    return dict(found.get("status", {}))


def duration(e2e: Any, name: str) -> float:
    """Seconds from the start to the end of a RayJob, with that of its Ray cluster."""
    status = status_of(e2e, name)
    begun, ended = (dt.datetime.fromisoformat(status[key]) for key in ("startTime", "endTime"))
    return (ended - begun).total_seconds()


def unfinished(e2e: Any, name: str) -> str:
    """State of a RayJob that has not succeeded yet."""
    status = status_of(e2e, name)
    if status.get("jobStatus") in {"FAILED", "STOPPED"}:
        raise ServiceError(f"the job failed: {status.get('message')}")
    return "" if status.get("jobStatus") == "SUCCEEDED" else str(status.get("jobDeploymentStatus"))


def test_a_pipeline_in_the_cluster_makes_a_champion_that_is_then_served(e2e: Any) -> None:
    """Driver and tasks are in different pods, and share the volume."""
    arguments = ["--config", "tiny", "--storage", "/shared/models"]
    job = {"kind": "pipeline", "args": arguments, "cpus": 2, "cpuRequest": "150m", "memory": "4Gi"}
    values = {"storage": {"enabled": True}, "serve": {"minReplicas": 1, "maxReplicas": 1}}
    e2e.upgrade(values | {"jobs": {"pipeline": job}})
    wait_until("the pipeline", 1200, lambda: unfinished(e2e, "demo-calogan-pipeline"), quiet)
    seconds = duration(e2e, "demo-calogan-pipeline")
    served = rollout.promote(e2e.service, "calogan-lean@champion-int8", seconds=600, say=quiet)
    assert served.uri != MODEL
    (replica,) = state.replicas(e2e.service)
    assert replica.models == served.contents
    e2e.results.add(
        "RayJob `pipeline --config tiny`, then `calogan cluster promote calogan-lean@champion-int8`",
        f"trained, validated and registered after {seconds:.0f} s; the endpoint serves `{served.uri}`",
    )


def test_a_production_survives_the_death_of_a_worker(e2e: Any) -> None:
    arguments = [
        "--model",
        "lean",
        "--n",
        "100000",
        "--seed",
        "5",
        "--shard-size",
        "5000",
        "--out",
        "/shared/production",
    ]
    job = {"kind": "generate", "args": arguments, "workers": 2, "cpus": 1, "cpuRequest": "150m", "memory": "4Gi"}
    values = {"storage": {"enabled": True}, "serve": {"minReplicas": 1, "maxReplicas": 1}}
    e2e.upgrade(values | {"jobs": {"showers": job}})
    output = "import pathlib; print(pathlib.Path('/shared/logs/showers.log').read_text())"
    core = client.CoreV1Api()
    selector = "app.kubernetes.io/component=jobs,ray.io/node-type=worker"

    def log() -> str:
        try:
            return "".join(jobs.follow(e2e.service, jobs.submit(e2e.service, ["python", "-c", output])))
        except ServiceError:
            return ""

    wait_until("the first shards", 900, lambda: "" if log().count(" showers, ") > 2 else "there is none", quiet)
    victim = core.list_namespaced_pod(e2e.namespace, label_selector=selector).items[0].metadata.name
    core.delete_namespaced_pod(victim, e2e.namespace, grace_period_seconds=0)
    wait_until("the production", 1200, lambda: unfinished(e2e, "demo-calogan-showers"), quiet)
    seconds = duration(e2e, "demo-calogan-showers")
    imports = "from calogan.events import open_events; from calogan.events.files import find_files"
    count = f"{imports}; print('showers:', len(open_events(find_files('/shared/production'))))"
    counted = "".join(jobs.follow(e2e.service, jobs.submit(e2e.service, ["python", "-c", count])))
    assert "showers: 100000" in counted
    e2e.results.add(
        "RayJob `generate --n 100000` on 2 workers, one killed",
        f"100,000 showers in 20 shards, none lost, after {seconds:.0f} s with the start of the Ray cluster",
    )


def test_what_was_installed_is_uninstalled_and_data_kept(e2e: Any) -> None:
    begun = time.monotonic()
    e2e.remove()
    e2e.results.add(
        "`helm uninstall`", f"all pods gone after {time.monotonic() - begun:.0f} s; claims and Secrets kept"
    )
    core = client.CoreV1Api()
    claims = {claim.metadata.name for claim in core.list_namespaced_persistent_volume_claim(e2e.namespace).items}
    assert "demo-calogan-mlflow" in claims
    assert [pod for pod in core.list_namespaced_pod(e2e.namespace).items if pod.metadata.name.startswith("demo")] == []
