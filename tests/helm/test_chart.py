"""The chart: what it renders, what it refuses, and that it agrees with the code and the demo's Serve config."""

import base64
import json
import os
import re
import runpy
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml
from helm_python import chart as helm
from jsonschema import Draft202012Validator

from calogan.serving.edge import PROXY_CALLBACK, PROXY_VARIABLE

# Ray Serve declares its schemas in a way that pydantic deprecates.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Using extra keyword arguments on `Field`:pydantic.warnings.PydanticDeprecatedSince20"
)

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "calogan"
LEAST: dict[str, Any] = {}
EVERYTHING = yaml.safe_load((CHART / "ci" / "everything.yaml").read_text())
OWN_MLFLOW = {"mlflow": {"enabled": False, "trackingUri": "https://mlflow.example"}}
OPEN = {"networkPolicy": {"enabled": False}}
WAYS = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((CHART / "ci").glob("*.yaml"))}
VALUES = {"least": LEAST, "no mlflow, no policy": LEAST | OWN_MLFLOW | OPEN, **WAYS}
serving_values = pytest.mark.parametrize(
    "values",
    [values for values in VALUES.values() if values.get("serve", {}).get("enabled", True)],
    ids=[name for name, values in VALUES.items() if values.get("serve", {}).get("enabled", True)],
)

Json = dict[str, Any]
OPEN_VALUES = {"resources", "nodeSelector", "annotations", "affinity", "labels", "jobs", "podLabels", "podAnnotations"}
every_values = pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)


@cache
def chart() -> helm_python.Chart:
    return helm_python.Chart.load(CHART)


def render(values: Json = LEAST, **release: Any) -> dict[str, Json]:
    """Render the chart; gives the objects as `Kind` or, if there are several of a kind, `Kind name`."""
    options = {"name": "demo", "namespace": "hep"} | release
    texts = chart().render(values=values, **options)
    found = [
        content
        for path, text in texts.items()
        if path.endswith(".yaml")
        for content in yaml.safe_load_all(text)
        if content
    ]
    kinds = [content["kind"] for content in found]
    keys = [
        content["kind"] if kinds.count(content["kind"]) == 1 else f"{content['kind']} {content['metadata']['name']}"
        for content in found
    ]
    assert len(keys) == len(set(keys)), "two objects have the same name"
    return dict(zip(keys, found, strict=True))


def pod_templates(objects: dict[str, Json]) -> dict[str, Json]:
    """Templates of all pods by what they are."""
    services = [content for content in objects.values() if content["kind"] == "RayService"]
    clusters = {"": services[0]["spec"]["rayClusterConfig"]} if services else {}
    clusters |= {
        f"{key} ": content["spec"]["rayClusterSpec"] for key, content in objects.items() if content["kind"] == "RayJob"
    }
    clusters |= {f"{key} ": content["spec"] for key, content in objects.items() if content["kind"] == "RayCluster"}
    templates: dict[str, Json] = {}
    for prefix, cluster in clusters.items():
        templates[f"{prefix}head"] = cluster["headGroupSpec"]["template"]
        templates[f"{prefix}worker"] = cluster["workerGroupSpecs"][0]["template"]
    for key, content in objects.items():
        if content["kind"] in {"Deployment", "Job"}:
            templates[key] = content["spec"]["template"]
        if content["kind"] == "Pod":
            templates[key] = content
    return templates


def peers(policy: Json, direction: str, port: int) -> list[Json]:
    """The `from` or `to` of the rules of a policy that allow a port."""
    side = {"ingress": "from", "egress": "to"}[direction]
    return [
        peer
        for rule in policy["spec"][direction]
        if port in [entry["port"] for entry in rule.get("ports", [{"port": port}])]
        for peer in rule.get(side, [{}])
    ]


def serve_config(objects: dict[str, Json]) -> Json:
    config: Json = yaml.safe_load(objects["RayService"]["spec"]["serveConfigV2"])
    return config


def environment(template: Json) -> dict[str, Any]:
    return {
        entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in template["spec"]["containers"][0]["env"]
    }


def nested(path: str, value: object) -> Json:
    """Values that set one path: `nested("a.b", 1)` is `{"a": {"b": 1}}`."""
    head, _, rest = path.partition(".")
    return {head: nested(rest, value) if rest else value}


@every_values
def test_lints_without_a_warning(values: Json) -> None:
    report = helm.lint(CHART, values=values, strict=True)
    assert report["errors"] == []
    assert [message for message in report["messages"] if message["severity"] > 1] == []


def test_templates_are_short() -> None:
    files = [path for path in (CHART / "templates").rglob("*") if path.is_file()]
    lengths = {path.name: len(path.read_text().splitlines()) for path in files}
    assert {name: length for name, length in lengths.items() if length > 150} == {}


def leaves(values: Json, prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict) and value and key not in OPEN_VALUES:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def test_everything_sets_every_value_but_those_that_exclude_others() -> None:
    excluded = {
        "mlflow.trackingUri",
        "mlflow.persistence.existingClaim",
        "redis.address",
        "serve.applications",
        "storage.existingClaim",
        "storage.hostPath",
    }
    assert set(leaves(EVERYTHING)) == set(leaves(chart().values)) - excluded


def test_readme_lists_every_value_with_its_default() -> None:
    readme = (CHART / "README.md").read_text().splitlines()
    rows = runpy.run_path(str(ROOT / "docs" / "scripts" / "chart_values.py"))["rows"]()
    assert {row.split("`")[1] for row in rows} == set(leaves(chart().values))
    assert [line for line in readme if line.startswith("| `")] == rows


def test_versions_agree_with_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert chart().metadata["appVersion"] == project["version"]
    assert chart().values["ray"]["version"] == metadata.version("ray")


def object_schemas(schema: object, path: str = "") -> Iterator[tuple[str, Json]]:
    if isinstance(schema, dict):
        if schema.get("type") == "object" and path != "/properties/global":
            yield path, schema
        for key, part in schema.items():
            yield from object_schemas(part, f"{path}/{key}")


def test_schema_is_closed_and_described_at_every_level() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    for path, part in object_schemas(schema):
        foreign = "bject that Kubernetes checks" in part.get("description", "")
        assert part["additionalProperties"] in (foreign, {"type": "string"}, {"$ref": "#/$defs/job"}), path
        missing = [name for name, value in part.get("properties", {}).items() if not value.get("description")]
        assert missing == [], path


def test_schema_knows_the_arguments_of_the_application() -> None:
    from calogan.serving.app import AppArguments  # noqa: PLC0415 - warns, which only a test may ignore

    arguments = json.loads((CHART / "values.schema.json").read_text())["$defs"]["application"]["properties"]["args"]
    own = AppArguments.model_json_schema()["properties"]
    assert set(arguments["properties"]) == set(own)
    assert arguments["properties"]["precisions"]["items"]["enum"] == own["precisions"]["items"]["enum"]


@pytest.mark.parametrize(
    ("path", "value", "place"),
    [
        ("workers", 3, "additional properties 'workers'"),
        ("apiKey.value", "secret", "'/apiKey'"),
        ("apiKey.existingSecret", "Not A Name", "'/apiKey/existingSecret'"),
        ("image.tag", "latest", "'/image/tag'"),
        ("image.pullPolicy", "Sometimes", "'/image/pullPolicy'"),
        ("fullnameOverride", "1showers", "'/fullnameOverride'"),
        ("ray.version", "2.60", "'/ray/version'"),
        ("cpu.require", "avx", "'/cpu/require'"),
        ("serve.minReplicas", 0, "'/serve/minReplicas'"),
        ("serve.cpus", 1.5, "'/serve/cpus'"),
        ("ray.head.resources.limits.gpu", 1, "'/ray/head/resources/limits'"),
        ("image.digest", "sha256:1", "'/image/digest'"),
        ("jobs", {"Job": {"kind": "train"}}, "invalid propertyName 'Job'"),
        ("jobs", {"job": {"kind": "dance"}}, "'/jobs/job/kind'"),
        ("ray.worker.affinity", {"nodeAffinity": {}}, "invalid propertyName 'nodeAffinity'"),
        ("ray.head.tolerations", [{"effect": "Never"}], "'/ray/head/tolerations/0/effect'"),
        ("serve.applications", [{"name": "x", "import_path": "m:f", "route_prefix": "/"}], "'/serve/applications/0'"),
        ("mlflow.extraAllowedHosts", ["*"], "'/mlflow/extraAllowedHosts/0'"),
        ("mlflow.trackingUri", "mlflow", "'/mlflow/trackingUri'"),
        ("mlflow.artifacts.uri", "gs://bucket", "'/mlflow/artifacts/uri'"),
        ("mlflow.database.uri", "postgresql://me:secret@db/mlflow", "'/mlflow/database'"),
        ("mlflow.login.password", "secret", "'/mlflow/login'"),
        ("jobCluster.minWorkers", 1, "'/jobCluster'"),
        ("networkPolicy.endpointFrom", [{}], "'/networkPolicy/endpointFrom/0'"),
        ("networkPolicy.extraEgress", [{"ports": [{"port": 0}]}], "'/networkPolicy/extraEgress/0/ports/0/port'"),
    ],
)
def test_impossible_values_are_refused_by_place(path: str, value: object, place: str) -> None:
    with pytest.raises(helm_python.HelmValuesError, match=re.escape(place)):
        render(LEAST | nested(path, value))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ray": {"worker": {"replicas": 2}}}, "ray.worker.replicas is no longer a value: set serve.minReplicas and"),
        ({"ray": {"worker": {"cpuFeatures": "any"}}}, "no longer a value: set cpu.require instead"),
        ({"serve": {"minReplicas": 3}}, "serve.maxReplicas is 2, fewer than serve.minReplicas, 3"),
        ({"serve": {"maxReplicas": 99}}, "ray.worker.maxWorkers is 16, fewer than serve.maxReplicas, 99"),
        ({"redis": {"address": "redis:6379"}}, "allow the way there in networkPolicy.extraEgress"),
        ({"redis": {"address": "redis:6379", "enabled": True}} | OPEN, "redis.address is set, but so is redis.enabled"),
        ({"storage": {"existingClaim": "a", "hostPath": "/b"}}, "are both set: choose one"),
        ({"jobs": {"job": {"kind": "train"}}}, "set storage.enabled=true"),
        ({"ingress": {"enabled": True}}, "ingress.host is empty"),
        ({"httpRoute": {"enabled": True}}, "httpRoute.parentRefs is empty"),
        ({"mlflow": {"trackingUri": "https://mlflow.example"}}, "mlflow.trackingUri is set, but so is mlflow.enabled"),
        (nested("mlflow.database.existingSecret", "db"), "allow the way there in networkPolicy.mlflowEgress"),
        (nested("mlflow.artifacts.existingSecret", "bucket"), "mlflow.artifacts.uri is empty"),
        (
            {"mlflow": OWN_MLFLOW["mlflow"] | {"login": {"enabled": True}}} | OPEN,
            "mlflow.login.existingSecret is empty: name the Secret",
        ),
        ({"mlflow": {"enabled": False}}, "mlflow.enabled is false and mlflow.trackingUri is empty"),
        (OWN_MLFLOW, "allow the way there in networkPolicy.extraEgress"),
        ({"serviceAccount": {"create": False}}, "serviceAccount.name is empty"),
    ],
)
def test_combinations_that_cannot_work_are_refused(change: Json, message: str) -> None:
    with pytest.raises(helm_python.HelmRenderError, match=re.escape(message)):
        render(LEAST | change)


def test_names_that_kubernetes_refuses_are_refused() -> None:
    with pytest.raises(helm_python.HelmRenderError, match="set fullnameOverride"):
        render(name="1st")


@every_values
def test_no_pod_has_rights(values: Json) -> None:
    objects = render(values)
    accounts = [content for content in objects.values() if content["kind"] == "ServiceAccount"]
    assert accounts
    assert not any(account["automountServiceAccountToken"] for account in accounts)
    for name, template in pod_templates(objects).items():
        pod = template["spec"]
        may_call = name.endswith("-remove")
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
            assert "emptyDir" in mounts["/tmp"]  # noqa: S108 - a mount
            assert ("token" in {mount["name"] for mount in container["volumeMounts"]}) == may_call, name
            assert re.search(r":\d|@sha256:", container["image"]), "a pinned image"
            assert set(container["resources"]) == {"requests", "limits"}
            if container["name"] != "redis":
                wanted = {"DO_NOT_TRACK": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}
                assert environment(template).items() >= wanted.items()


@serving_values
def test_ray_pods_have_what_ray_and_the_application_need(values: Json) -> None:
    templates = pod_templates(render(values))
    for name in ("head", "worker"):
        variables = environment(templates[name])
        secret = values.get("apiKey", {"existingSecret": "demo-calogan-api-key"})
        reference = {"name": secret["existingSecret"], "key": secret.get("key", "CALOGAN_API_KEY")}
        assert variables["CALOGAN_API_KEY"] == {"secretKeyRef": reference}
        assert variables["RAY_USAGE_STATS_ENABLED"] == "0"
        assert variables[PROXY_VARIABLE] == PROXY_CALLBACK
        drain = int(variables["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"]) if name == "worker" else 0
        assert templates[name]["spec"]["terminationGracePeriodSeconds"] == drain + 30
        mounts = {mount["mountPath"] for mount in templates[name]["spec"]["containers"][0]["volumeMounts"]}
        assert "/tmp/ray" in mounts  # noqa: S108 - a mount


def test_the_key_is_made_unless_there_is_one() -> None:
    secrets = [render()["Secret"] for _ in range(2)]
    keys = [base64.b64decode(secret["data"]["CALOGAN_API_KEY"]).decode() for secret in secrets]
    assert secrets[0]["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert keys[0] != keys[1]
    assert re.fullmatch(r"[A-Za-z0-9]{48}", keys[0])
    assert "Secret" not in render(EVERYTHING)


def test_head_runs_no_replicas_and_ray_asks_for_its_token() -> None:
    service = render()["RayService"]["spec"]
    assert service["excludeHeadPodFromServeSvc"] is True
    assert service["rayClusterConfig"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert service["rayClusterConfig"]["authOptions"] == {"mode": "token"}
    own = render(EVERYTHING)["RayService"]["spec"]["rayClusterConfig"]["authOptions"]
    assert own == {"mode": "token", "secretName": "ray-token"}


def test_only_the_autoscaler_has_the_token_of_the_head() -> None:
    objects = render()
    cluster = objects["RayService"]["spec"]["rayClusterConfig"]
    options = cluster["autoscalerOptions"]
    assert "token" in {mount["name"] for mount in options["volumeMounts"]}
    assert options["securityContext"]["allowPrivilegeEscalation"] is False
    head, worker = (pod_templates(objects)[name]["spec"] for name in ("head", "worker"))
    assert "token" in {volume["name"] for volume in head["volumes"]}
    assert head["serviceAccountName"] == "demo-calogan-head" != worker["serviceAccountName"]


@pytest.mark.parametrize(("least", "most"), [(1, 1), (2, 2), (2, 8)])
def test_numbers_of_replicas_and_workers_have_one_place(least: int, most: int) -> None:
    objects = render({"serve": {"minReplicas": least, "maxReplicas": most, "cpus": 3}})
    (application,) = serve_config(objects)["applications"]
    (deployment,) = application["deployments"]
    scaling = deployment["autoscaling_config"]
    assert (scaling["min_replicas"], scaling["max_replicas"]) == (least, most)
    assert deployment["max_replicas_per_node"] == 1
    (group,) = objects["RayService"]["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert group["replicas"] == least
    assert group["maxReplicas"] >= most
    resources = pod_templates(objects)["worker"]["spec"]["containers"][0]["resources"]
    assert resources["requests"]["cpu"] == resources["limits"]["cpu"] == str(application["args"]["threads"]) == "3"
    budget = objects.get("PodDisruptionBudget", {"spec": {"minAvailable": 0}})
    assert budget["spec"]["minAvailable"] == least - 1


def test_other_numbers_of_replicas_are_no_new_cluster() -> None:
    before, after = (
        render({"serve": {"minReplicas": least, "maxReplicas": 8}})["RayService"]["spec"] for least in (1, 3)
    )
    assert before["serveConfigV2"] != after["serveConfigV2"]
    for spec in (before, after):  # what KubeRay does not compare
        del spec["rayClusterConfig"]["workerGroupSpecs"][0]["replicas"]
    assert before["rayClusterConfig"] == after["rayClusterConfig"]


def test_other_limits_of_workers_are_a_new_cluster() -> None:
    annotations = [
        pod_templates(render(nested("ray.worker.maxWorkers", most)))["worker"]["metadata"]["annotations"]
        for most in (8, 9)
    ]
    assert annotations[0] != annotations[1]


def test_the_state_of_the_head_survives_in_redis() -> None:
    objects = render({"redis": {"enabled": True}})
    options = objects["RayService"]["spec"]["rayClusterConfig"]["gcsFaultToleranceOptions"]
    service = objects["Service demo-calogan-redis"]
    assert options == {"redisAddress": f"{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"}
    pod = objects["Deployment demo-calogan-redis"]["spec"]["template"]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert "gcsFaultToleranceOptions" not in render()["RayService"]["spec"]["rayClusterConfig"]


def test_ray_clusters_go_before_the_redis_that_they_clear() -> None:
    objects = render({"redis": {"enabled": True}})
    job, role = objects["Job demo-calogan-remove"], objects["Role"]
    hooks = [content for content in objects.values() if content["metadata"]["name"] == "demo-calogan-remove"]
    hooked = [content for content in hooks if content["kind"] != "NetworkPolicy"]
    assert {content["metadata"]["annotations"]["helm.sh/hook"] for content in hooked} == {"pre-delete"}
    command = job["spec"]["template"]["spec"]["containers"][0]["command"]
    assert command[-2:] == ["hep", objects["RayService"]["metadata"]["name"]]
    compile(command[2], "remove_service.py", "exec")
    assert [rule["verbs"] for rule in role["rules"]] == [["delete"], ["list"]]
    assert role["rules"][0]["resourceNames"] == [objects["RayService"]["metadata"]["name"]]
    assert "Role" not in render()


# Values that change the pods of the registration Job, which cannot be changed in place.
OTHER_JOBS: list[Json] = [
    {"image": {"tag": "0.2.1"}},
    {"podAnnotations": {"a": "b"}},
    {"podLabels": {"a": "b"}},
    {"priorityClassName": "high"},
    {"registration": {"resources": {"limits": {"cpu": "4"}}}},
    {"serviceAccount": {"name": "other"}},
]


def test_the_model_is_registered_by_a_job_whose_name_follows_what_it_does() -> None:
    jobs = [render(values)["Job"] for values in (LEAST, LEAST, *OTHER_JOBS)]
    names = [job["metadata"]["name"] for job in jobs]
    assert names[0] == names[1]
    assert len(set(names)) == 1 + len(OTHER_JOBS)
    command = jobs[0]["spec"]["template"]["spec"]["containers"][0]["command"]
    from calogan.cli.main import cli  # noqa: PLC0415

    with cli.commands["register"].make_context(command[1], command[2:]) as context:
        assert context.params["keep_champion"]
    (application,) = serve_config(render())["applications"]
    assert application["args"]["wait_for_model"] is True
    assert "Job" not in render({"registration": {"enabled": False}})


def test_jobs_run_on_clusters_of_their_own_and_share_a_volume() -> None:
    objects = render(EVERYTHING)
    job = objects["RayJob showers-training"]["spec"]
    assert job["shutdownAfterJobFinishes"] is True
    assert "'--storage' '/data/models'" in job["entrypoint"]
    assert "tee -a /data/logs/training.log" in job["entrypoint"]
    group = job["rayClusterSpec"]["workerGroupSpecs"][0]
    assert (group["replicas"], group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"]) == (2, "4")
    claim = objects["PersistentVolumeClaim"]
    assert claim["metadata"]["name"] == "showers-shared"
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for name, template in pod_templates(objects).items():
        if name.endswith(("head", "worker")):
            claims = [volume.get("persistentVolumeClaim") for volume in template["spec"]["volumes"]]
            assert {"claimName": "showers-shared"} in claims, name
            mounts = template["spec"]["containers"][0]["volumeMounts"]
            assert {"name": "shared", "mountPath": "/data"} in mounts


def test_without_an_endpoint_nothing_of_it_is_made() -> None:
    kinds = {content["kind"] for content in render(WAYS["jobs-only"]).values()}
    assert kinds == {
        "Deployment",
        "NetworkPolicy",
        "PersistentVolumeClaim",
        "RayCluster",
        "RayJob",
        "Service",
        "ServiceAccount",
    }


def test_submitted_jobs_have_a_cluster_whose_workers_start_for_them() -> None:
    objects = render(nested("jobCluster", {"enabled": True, "maxWorkers": 7, "cpus": 3, "idleSeconds": 90}))
    cluster = objects["RayCluster"]["spec"]
    (group,) = cluster["workerGroupSpecs"]
    assert [group[name] for name in ("replicas", "minReplicas", "maxReplicas")] == [0, 0, 7]
    assert group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"] == "3"
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["autoscalerOptions"]["idleTimeoutSeconds"] == 90
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0", "drivers only"
    assert cluster["headGroupSpec"]["template"]["spec"]["serviceAccountName"] == "demo-calogan-head"
    assert "RayCluster" not in render()
    serving = render()["RayService"]
    assert objects["RayService"] == serving, "not a new cluster for serving"


def test_the_api_server_is_reached_by_heads_with_an_autoscaler_only() -> None:
    objects = render(EVERYTHING)
    allowed = [
        content["spec"]["podSelector"]["matchLabels"].items()
        for content in objects.values()
        if content["kind"] == "NetworkPolicy" and content["spec"].get("egress", []) and peers(content, "egress", 6443)
        if content["metadata"]["name"].endswith("autoscaler")
    ]
    labels = {
        name: template["metadata"]["labels"] | {"ray.io/node-type": name.split()[-1]}
        for name, template in pod_templates(objects).items()
    }
    found = {name for name, own in labels.items() for selector in allowed if selector <= own.items()}
    assert found == {"head", "RayCluster head"}


def secrets_of(template: Json) -> dict[str, tuple[str, str]]:
    """Environment variables that come from Secrets: name and key of the Secret."""
    references = {
        name: value["secretKeyRef"] for name, value in environment(template).items() if isinstance(value, dict)
    }
    return {name: (reference["name"], reference["key"]) for name, reference in references.items()}


def test_mlflow_keeps_runs_and_files_where_the_values_say() -> None:
    objects = render(EVERYTHING)
    server = pod_templates(objects)["Deployment showers-mlflow"]
    variables, secrets = environment(server), secrets_of(server)
    assert secrets["MLFLOW_BACKEND_STORE_URI"] == ("mlflow-database", "address")
    assert secrets["AWS_SECRET_ACCESS_KEY"] == ("mlflow-bucket", "AWS_SECRET_ACCESS_KEY")
    assert variables["MLFLOW_ARTIFACTS_DESTINATION"] == "s3://calogan/mlflow"
    assert [volume["name"] for volume in server["spec"]["volumes"]] == ["tmp"], "nothing is left for a volume"
    policy = objects["NetworkPolicy showers-mlflow"]
    databases = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "databases"}}}
    assert databases in peers(policy, "egress", 5432)
    assert render()["NetworkPolicy demo-calogan-mlflow"]["spec"]["egress"] == []
    own = pod_templates(render())["Deployment"]
    assert environment(own)["MLFLOW_BACKEND_STORE_URI"].startswith("sqlite:////mlflow/")
    assert {"name": "data", "mountPath": "/mlflow"} in own["spec"]["containers"][0]["volumeMounts"]


def test_everybody_who_uses_mlflow_logs_in() -> None:
    templates = pod_templates(render(EVERYTHING))
    for name, template in templates.items():
        if name.startswith("Deployment") or name.endswith("-remove"):
            continue
        secrets = secrets_of(template)
        assert secrets["MLFLOW_TRACKING_USERNAME"] == ("mlflow-login", "username"), name
        assert secrets["MLFLOW_TRACKING_PASSWORD"] == ("mlflow-login", "password"), name
    assert secrets_of(templates["Deployment showers-mlflow"])["MLFLOW_AUTH_ADMIN_PASSWORD"] == (
        "mlflow-login",
        "password",
    )
    made = render(nested("mlflow.login.enabled", value=True))["Secret demo-calogan-mlflow-login"]
    assert set(made["data"]) == {"username", "password", "secretKey"}
    assert made["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_panels_of_the_dashboard_are_of_metrics_that_the_replicas_have() -> None:
    from calogan.serving.metrics import Metrics, PrometheusMeter  # noqa: PLC0415

    content = render(EVERYTHING)["ConfigMap showers-dashboard"]
    assert content["metadata"]["labels"]["dashboards"] == "calogan"
    panels = json.loads(content["data"]["showers.json"])["panels"]
    meter = PrometheusMeter()
    Metrics(meter)
    known = {metric.name for metric in meter.registry.collect()}
    shown = set(re.findall(r"ray_(calogan_\w+)", json.dumps(panels)))
    assert {re.sub("_(total|bucket)$", "", name) for name in shown} <= known
    assert len(shown) == 5


def test_arguments_of_jobs_reach_the_driver_as_they_are(tmp_path: Path) -> None:
    objects = render(EVERYTHING | {"storage": {"enabled": True, "mountPath": str(tmp_path)}})
    entrypoint = objects["RayJob showers-showers"]["spec"]["entrypoint"]
    (tmp_path / "python").write_text('#!/bin/sh\nprintf "<%s>" "$@"; exit 3\n')
    (tmp_path / "python").chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", entrypoint],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, "the exit code of the driver, not of tee"
    assert done.stdout == "<-m><ray_jobs.simulate><--n><1000><--out></data/it's here>"
    assert (tmp_path / "logs" / "showers.log").read_text() == done.stdout


def test_replicas_make_productions_on_the_shared_volume() -> None:
    shared = render({"storage": {"enabled": True, "mountPath": "/data"}})["RayService"]["spec"]
    assert "productions: /data/productions\n" in shared["serveConfigV2"]
    assert "productions" not in render()["RayService"]["spec"]["serveConfigV2"]


def test_a_new_application_is_no_new_cluster() -> None:
    before = render()["RayService"]["spec"]
    after = render({"serve": {"precisions": ["float32"]}}, revision=2, is_upgrade=True)["RayService"]["spec"]
    assert after["serveConfigV2"] != before["serveConfigV2"]
    assert after["rayClusterConfig"] == before["rayClusterConfig"]


@pytest.mark.parametrize(
    ("features", "required"),
    [("amx", ["AMXINT8"]), ("vnni", ["AVX512VNNI"]), ("any", ["AMXINT8", "AVX512VNNI"]), ("none", [])],
)
def test_workers_go_to_nodes_with_the_cpu_features(features: str, required: list[str]) -> None:
    templates = pod_templates(render(LEAST | nested("cpu.require", features)))
    affinity = templates["worker"]["spec"]["affinity"]["nodeAffinity"]
    terms = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", {}).get("nodeSelectorTerms", [])
    label = "feature.node.kubernetes.io/cpu-cpuid."
    assert [term["matchExpressions"] for term in terms] == [
        [{"key": label + name, "operator": "Exists"}] for name in required
    ]
    preferred = affinity["preferredDuringSchedulingIgnoredDuringExecution"]
    weights = {entry["preference"]["matchExpressions"][0]["key"]: entry["weight"] for entry in preferred}
    assert weights[label + "AMXINT8"] > weights[label + "AVX512VNNI"]
    assert "affinity" not in templates["head"]["spec"]


def test_dashboard_is_reached_by_ray_and_the_operator_only() -> None:
    objects = render()
    policy = objects["NetworkPolicy demo-calogan-ray"]
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    allowed = [peer["podSelector"]["matchLabels"] for peer in peers(policy, "ingress", 8265)]
    # The label that both installations of the operator set, by its chart and by its kustomization.
    operator = {"app.kubernetes.io/component": "kuberay-operator"}
    assert allowed == [policy["spec"]["podSelector"]["matchLabels"], operator]
    assert {} in peers(policy, "ingress", 8000), "everyone"
    head = objects["RayService"]["spec"]["rayClusterConfig"]["headGroupSpec"]
    assert not {"serviceType", "enableIngress", "headService"} & set(head)


def test_dns_is_allowed_by_pod_on_whichever_port() -> None:
    server = {"namespaceSelector": {}, "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}
    for name in ("ray", "register", "test"):
        policy = render()[f"NetworkPolicy demo-calogan-{name}"]
        assert server in peers(policy, "egress", 53), name
        assert server in peers(policy, "egress", 5353), name


def test_prometheus_reaches_the_metrics_if_allowed() -> None:
    assert peers(render()["NetworkPolicy demo-calogan-ray"], "ingress", 8080)[:-1] == []
    monitored = render(EVERYTHING)
    allowed = EVERYTHING["networkPolicy"]["metricsFrom"][0]
    assert allowed in peers(monitored["NetworkPolicy showers-ray"], "ingress", 8080)
    monitor = monitored["PodMonitor"]["spec"]
    assert monitor["podMetricsEndpoints"] == [{"port": "metrics"}]
    for name in ("head", "worker"):
        ports = pod_templates(monitored)[name]["spec"]["containers"][0]["ports"]
        assert {"name": "metrics", "containerPort": 8080} in ports


def test_policies_and_services_select_the_pods() -> None:
    objects = render(EVERYTHING)
    labels = {name: template["metadata"]["labels"].items() for name, template in pod_templates(objects).items()}
    serving = ["head", "worker"]
    jobs = [f"RayJob showers-{job} {part}" for job in ("showers", "training") for part in serving]
    job = next(name for name in labels if name.startswith("Job showers-register"))
    selected = {
        "ray": serving,
        "jobs": jobs,
        "job-cluster": ["RayCluster head", "RayCluster worker"],
        "mlflow": ["Deployment showers-mlflow"],
        "redis": ["Deployment showers-redis"],
        "register": [job],
        "remove": ["Job showers-remove"],
        "test": ["Pod"],
    }
    for policy, pods in selected.items():
        selector = objects[f"NetworkPolicy showers-{policy}"]["spec"]["podSelector"]["matchLabels"].items()
        assert sorted(name for name, own in labels.items() if selector <= own) == sorted(pods), policy
    for name in ("mlflow", "redis"):
        for selector in (
            objects[f"Deployment showers-{name}"]["spec"]["selector"]["matchLabels"],
            objects[f"Service showers-{name}"]["spec"]["selector"],
        ):
            assert [pod for pod, own in labels.items() if selector.items() <= own] == [f"Deployment showers-{name}"]


def test_ways_in_lead_to_the_endpoint() -> None:
    objects = render(EVERYTHING)
    (rule,) = objects["Ingress"]["spec"]["rules"]
    service = rule["http"]["paths"][0]["backend"]["service"]
    (route,) = objects["HTTPRoute"]["spec"]["rules"]
    assert (service["name"], service["port"]["number"]) == ("showers-serve-svc", 8000)
    assert route["backendRefs"] == [{"name": "showers-serve-svc", "port": 8000}]
    assert objects["Ingress"]["spec"]["tls"] == [{"hosts": ["showers.example"], "secretName": "tls"}]
    assert objects["ConfigMap demo-more"]


def test_mlflow_answers_to_the_name_that_ray_calls() -> None:
    objects = render()
    templates = pod_templates(objects)
    address = environment(templates["worker"])["MLFLOW_TRACKING_URI"]
    service = "demo-calogan-mlflow"
    assert address == f"http://{service}:5000"
    command = templates["Deployment"]["spec"]["containers"][0]["command"]
    hosts = next(part for part in command if part.startswith("--allowed-hosts=")).partition("=")[2].split(",")
    assert {service + ":*", f"{service}.hep.svc:*", f"{service}.hep.svc.cluster.local:*", "localhost:*"} <= set(hosts)
    assert "*" not in hosts


def test_long_names_leave_room_for_those_kuberay_makes() -> None:
    objects = render(name="a" * 53)
    assert len(objects["RayService"]["metadata"]["name"]) <= 47


@serving_values
def test_serve_config_is_valid(values: Json) -> None:
    from ray.serve.schema import ServeDeploySchema  # noqa: PLC0415 - warns, which only a test may ignore

    config = serve_config(render(values))
    parsed = ServeDeploySchema.model_validate(config)
    assert parsed.http_options.host == "0.0.0.0"  # noqa: S104 - within the pod's network
    assert parsed.proxy_location == "EveryNode"
    # Pydantic drops what it does not know, so the fields are compared by name.
    assert parsed.model_dump(exclude_unset=True, mode="json").keys() == config.keys()
    for application, entry in zip(parsed.applications, config["applications"], strict=True):
        assert application.model_fields_set == entry.keys()
        for deployment, settings in zip(application.deployments, entry.get("deployments", []), strict=True):
            assert deployment.model_fields_set == settings.keys()


def test_applications_are_those_of_the_demo() -> None:
    demo = yaml.safe_load((ROOT / "deploy" / "serve.yaml").read_text())
    (application,), (own,) = demo["applications"], serve_config(render())["applications"]
    assert {key: own[key] for key in application if key != "args"} == {
        key: value for key, value in application.items() if key != "args"
    }
    assert own["args"].items() >= application["args"].items()
    given = render({"serve": {"applications": demo["applications"]}})
    assert serve_config(given)["applications"] == demo["applications"]


def strict(schema: object) -> object:
    """Turn a schema of a CustomResourceDefinition into JSON schema that refuses what the API server would drop."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: strict(part) for key, part in schema.items() if not key.startswith("x-kubernetes-")}
    if schema.get("x-kubernetes-int-or-string"):
        result.pop("anyOf", None)
        result["type"] = ["integer", "string"]
    open_object = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if schema.get("type") == "object" and not open_object and "properties" in schema:
        result["additionalProperties"] = False
    return result


def kuberay_schema(kind: str) -> Json:
    folder = os.environ.get("CALOGAN_CRD_DIR")
    if not folder:
        pytest.skip("CALOGAN_CRD_DIR is not set: it names a folder with KubeRay's CRDs")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    definition = yaml.load((Path(folder) / f"ray.io_{kind}.yaml").read_text(), loader)  # noqa: S506 - safe loaders
    (version,) = [entry for entry in definition["spec"]["versions"] if entry["name"] == "v1"]
    schema = strict(version["schema"]["openAPIV3Schema"])
    assert isinstance(schema, dict)
    schema["properties"]["metadata"] = {"type": "object"}
    return schema


@pytest.fixture(scope="module")
def ray_service_schema() -> Json:
    return kuberay_schema("rayservices")


def complaints(schema: Json, thing: Json) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in Draft202012Validator(schema).iter_errors(thing)]


@serving_values
def test_kuberay_accepts_the_service(values: Json, ray_service_schema: Json) -> None:
    objects = render(values)
    assert complaints(ray_service_schema, objects["RayService"]) == []
    cluster = ray_service_schema["properties"]["spec"]["properties"]["rayClusterConfig"]["properties"]
    pod_schema = cluster["headGroupSpec"]["properties"]["template"]["properties"]["spec"]
    for template in pod_templates(objects).values():
        assert complaints(pod_schema, template["spec"]) == []


def test_kuberay_accepts_the_jobs() -> None:
    schema = kuberay_schema("rayjobs")
    jobs = [content for content in render(EVERYTHING).values() if content["kind"] == "RayJob"]
    assert len(jobs) == 2
    for job in jobs:
        assert complaints(schema, job) == []
    assert complaints(kuberay_schema("rayclusters"), render(EVERYTHING)["RayCluster"]) == []


def test_kuberay_schema_refuses_what_it_does_not_know(ray_service_schema: Json) -> None:
    service = render()["RayService"]
    service["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["restart"] = "Never"
    service["spec"]["rayClusterConfig"]["authOptions"]["mode"] = "open"
    problems = complaints(ray_service_schema, service)
    assert len(problems) == 2
    assert "'restart' was unexpected" in " ".join(problems)
    assert "'open' is not one of" in " ".join(problems)
