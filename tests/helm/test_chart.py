"""The chart: what it renders, what it refuses, and that it agrees with the code and the demo's Serve config."""

import copy
import json
import os
import re
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

# Ray Serve declares its schemas in a way that pydantic deprecates.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Using extra keyword arguments on `Field`:pydantic.warnings.PydanticDeprecatedSince20"
)

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "calogan"
LEAST = {"apiKey": {"existingSecret": "endpoint"}}
EVERYTHING = yaml.safe_load((CHART / "ci" / "everything.yaml").read_text())
OWN_MLFLOW = {"mlflow": {"enabled": False, "trackingUri": "https://mlflow.example"}}
OPEN = {"networkPolicy": {"enabled": False}}
VALUES = {"least": LEAST, "everything": EVERYTHING, "no mlflow, no policy": LEAST | OWN_MLFLOW | OPEN}

Json = dict[str, Any]
every_values = pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)


@cache
def chart() -> helm_python.Chart:
    return helm_python.Chart.load(CHART)


def render(values: Json = LEAST, **release: Any) -> dict[str, Json]:
    """Render the chart; gives the objects by template, `NOTES.txt` left out."""
    options = {"name": "demo", "namespace": "hep"} | release
    texts = {Path(path).name: text for path, text in chart().render(values=values, **options).items()}
    # Raises if a template holds more than one object.
    objects = {name: yaml.safe_load(text) for name, text in texts.items() if name.endswith(".yaml")}
    return {name: content for name, content in objects.items() if content}


def pod_templates(objects: dict[str, Json]) -> dict[str, Json]:
    cluster = objects["rayservice.yaml"]["spec"]["rayClusterConfig"]
    templates = {"head": cluster["headGroupSpec"]["template"], "worker": cluster["workerGroupSpecs"][0]["template"]}
    if "mlflow-deployment.yaml" in objects:
        templates["mlflow"] = objects["mlflow-deployment.yaml"]["spec"]["template"]
    return templates


def serve_config(objects: dict[str, Json]) -> Json:
    config: Json = yaml.safe_load(objects["rayservice.yaml"]["spec"]["serveConfigV2"])
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
    lengths = {path.name: len(path.read_text().splitlines()) for path in (CHART / "templates").iterdir()}
    assert {name: length for name, length in lengths.items() if length > 150} == {}


def leaves(values: Json, prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict) and value and key not in {"resources", "nodeSelector", "annotations"}:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def test_everything_sets_every_value_but_those_that_exclude_others() -> None:
    excluded = {"mlflow.trackingUri", "mlflow.persistence.existingClaim"}
    assert set(leaves(EVERYTHING)) == set(leaves(chart().values)) - excluded


def documented_values() -> list[str]:
    """Rows of the README's table, from the `# --` comments of values.yaml."""
    rows: list[str] = []
    path: list[str] = []
    comment = ""
    for line in (CHART / "values.yaml").read_text().splitlines():
        if match := re.fullmatch(r"\s*# -- (.+)", line):
            comment = match[1]
        elif match := re.match(r"( *)([A-Za-z]\w*):", line):
            path[len(match[1]) // 2 :] = [match[2]]
            if comment:
                default: Any = chart().values
                for key in path:
                    default = default[key]
                rows.append(f"| `{'.'.join(path)}` | {comment} | `{json.dumps(default)}` |")
            comment = ""
    return rows


def test_readme_lists_every_value_with_its_default() -> None:
    readme = (CHART / "README.md").read_text().splitlines()
    rows = documented_values()
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
        assert part["additionalProperties"] in (False, {"type": "string"}), path
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
        ("ray.worker.cpuFeatures", "avx", "'/ray/worker/cpuFeatures'"),
        ("ray.worker.replicas", 0, "'/ray/worker/replicas'"),
        ("ray.worker.resources.limits.gpu", 1, "'/ray/worker/resources/limits'"),
        ("ray.head.tolerations", [{"effect": "Never"}], "'/ray/head/tolerations/0/effect'"),
        ("serve.applications", [], "'/serve/applications'"),
        ("serve.applications", [{"name": "x", "import_path": "m:f", "route_prefix": "/"}], "'/serve/applications/0'"),
        ("mlflow.extraAllowedHosts", ["*"], "'/mlflow/extraAllowedHosts/0'"),
        ("mlflow.trackingUri", "mlflow", "'/mlflow/trackingUri'"),
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
        ({"apiKey": {"existingSecret": ""}}, "apiKey.existingSecret is not set"),
        ({"mlflow": {"trackingUri": "https://mlflow.example"}}, "mlflow.trackingUri is set, but so is mlflow.enabled"),
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
    assert objects["serviceaccount.yaml"]["automountServiceAccountToken"] is False
    for name, template in pod_templates(objects).items():
        pod = template["spec"]
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
            assert re.search(r":\d", container["image"]), "a pinned tag"
            assert set(container["resources"]) == {"requests", "limits"}
            assert environment(template).items() >= {"DO_NOT_TRACK": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}.items()


@every_values
def test_ray_pods_have_what_ray_and_the_application_need(values: Json) -> None:
    templates = pod_templates(render(values))
    for name in ("head", "worker"):
        variables = environment(templates[name])
        secret = values["apiKey"]
        reference = {"name": secret["existingSecret"], "key": secret.get("key", "CALOGAN_API_KEY")}
        assert variables["CALOGAN_API_KEY"] == {"secretKeyRef": reference}
        assert variables["RAY_USAGE_STATS_ENABLED"] == "0"
        drain = int(variables["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
        assert templates[name]["spec"]["terminationGracePeriodSeconds"] > drain
        mounts = {mount["mountPath"] for mount in templates[name]["spec"]["containers"][0]["volumeMounts"]}
        assert "/tmp/ray" in mounts  # noqa: S108 - a mount


def test_head_runs_no_replicas_and_ray_asks_for_its_token() -> None:
    service = render()["rayservice.yaml"]["spec"]
    assert service["excludeHeadPodFromServeSvc"] is True
    assert service["rayClusterConfig"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert service["rayClusterConfig"]["authOptions"] == {"mode": "token"}
    own = render(EVERYTHING)["rayservice.yaml"]["spec"]["rayClusterConfig"]["authOptions"]
    assert own == {"mode": "token", "secretName": "ray-token"}


def test_a_new_application_is_no_new_cluster() -> None:
    before = render()["rayservice.yaml"]["spec"]
    application = copy.deepcopy(chart().values["serve"]["applications"])
    application[0]["args"]["precisions"] = ["float32"]
    after = render(LEAST | {"serve": {"applications": application}}, revision=2, is_upgrade=True)["rayservice.yaml"]
    assert after["spec"]["serveConfigV2"] != before["serveConfigV2"]
    assert after["spec"]["rayClusterConfig"] == before["rayClusterConfig"]


@pytest.mark.parametrize(
    ("features", "required"),
    [("amx", ["AMXINT8"]), ("vnni", ["AVX512VNNI"]), ("any", ["AMXINT8", "AVX512VNNI"]), ("none", [])],
)
def test_workers_go_to_nodes_with_the_cpu_features(features: str, required: list[str]) -> None:
    templates = pod_templates(render(LEAST | nested("ray.worker.cpuFeatures", features)))
    affinity = templates["worker"]["spec"]["affinity"]["nodeAffinity"]
    terms = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", {}).get("nodeSelectorTerms", [])
    label = "feature.node.kubernetes.io/cpu-cpuid."
    assert [term["matchExpressions"] for term in terms] == [
        [{"key": label + name, "operator": "Exists"}] for name in required
    ]
    preferred = affinity["preferredDuringSchedulingIgnoredDuringExecution"]
    assert preferred[0]["preference"]["matchExpressions"] == [{"key": label + "AMXINT8", "operator": "Exists"}]
    assert "affinity" not in templates["head"]["spec"]


def test_dashboard_is_reached_by_ray_and_the_operator_only() -> None:
    objects = render()
    policy = objects["networkpolicy-ray.yaml"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    peers = [
        peer["podSelector"]["matchLabels"]
        for rule in policy["ingress"]
        if 8265 in [port["port"] for port in rule.get("ports", [{"port": 8265}])]
        for peer in rule["from"]
    ]
    assert peers == [policy["podSelector"]["matchLabels"], {"app.kubernetes.io/name": "kuberay-operator"}]
    assert {"ports": [{"port": 8000}]} in policy["ingress"]
    assert {"ports": [{"port": 53, "protocol": name} for name in ("UDP", "TCP")]} in policy["egress"]
    head = objects["rayservice.yaml"]["spec"]["rayClusterConfig"]["headGroupSpec"]
    assert not {"serviceType", "enableIngress", "headService"} & set(head)


def test_policies_and_services_select_the_pods() -> None:
    objects = render()
    labels = {name: template["metadata"]["labels"].items() for name, template in pod_templates(objects).items()}
    ray = objects["networkpolicy-ray.yaml"]["spec"]["podSelector"]["matchLabels"].items()
    selectors = (
        objects["networkpolicy-mlflow.yaml"]["spec"]["podSelector"]["matchLabels"],
        objects["mlflow-deployment.yaml"]["spec"]["selector"]["matchLabels"],
        objects["mlflow-service.yaml"]["spec"]["selector"],
    )
    assert [name for name, own in labels.items() if ray <= own] == ["head", "worker"]
    for selector in selectors:
        assert [name for name, own in labels.items() if selector.items() <= own] == ["mlflow"]


def test_mlflow_answers_to_the_name_that_ray_calls() -> None:
    objects = render()
    templates = pod_templates(objects)
    address = environment(templates["worker"])["MLFLOW_TRACKING_URI"]
    service = objects["mlflow-service.yaml"]["metadata"]["name"]
    assert address == f"http://{service}:5000"
    command = templates["mlflow"]["spec"]["containers"][0]["command"]
    hosts = next(part for part in command if part.startswith("--allowed-hosts=")).partition("=")[2].split(",")
    assert {service + ":*", f"{service}.hep.svc:*", f"{service}.hep.svc.cluster.local:*", "localhost:*"} <= set(hosts)
    assert "*" not in hosts


def test_long_names_leave_room_for_those_kuberay_makes() -> None:
    objects = render(name="a" * 53)
    assert len(objects["rayservice.yaml"]["metadata"]["name"]) <= 47


@every_values
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
    assert serve_config(render())["applications"] == demo["applications"]


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


@pytest.fixture(scope="module")
def ray_service_schema() -> Json:
    folder = os.environ.get("CALOGAN_CRD_DIR")
    if not folder:
        pytest.skip("CALOGAN_CRD_DIR is not set: it names a folder with KubeRay's ray.io_rayservices.yaml")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    definition = yaml.load((Path(folder) / "ray.io_rayservices.yaml").read_text(), loader)  # noqa: S506 - safe loaders
    (version,) = [entry for entry in definition["spec"]["versions"] if entry["name"] == "v1"]
    schema = strict(version["schema"]["openAPIV3Schema"])
    assert isinstance(schema, dict)
    schema["properties"]["metadata"] = {"type": "object"}
    return schema


def complaints(schema: Json, thing: Json) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in Draft202012Validator(schema).iter_errors(thing)]


@every_values
def test_kuberay_accepts_the_service(values: Json, ray_service_schema: Json) -> None:
    objects = render(values)
    assert complaints(ray_service_schema, objects["rayservice.yaml"]) == []
    cluster = ray_service_schema["properties"]["spec"]["properties"]["rayClusterConfig"]["properties"]
    pod_schema = cluster["headGroupSpec"]["properties"]["template"]["properties"]["spec"]
    for template in pod_templates(objects).values():
        assert complaints(pod_schema, template["spec"]) == []


def test_kuberay_schema_refuses_what_it_does_not_know(ray_service_schema: Json) -> None:
    service = render()["rayservice.yaml"]
    service["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["restart"] = "Never"
    service["spec"]["rayClusterConfig"]["authOptions"]["mode"] = "open"
    problems = complaints(ray_service_schema, service)
    assert len(problems) == 2
    assert "'restart' was unexpected" in " ".join(problems)
    assert "'open' is not one of" in " ".join(problems)
