"""What deploy/ has for others to run it: each file by the tool of those who will read it."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.deploy.dockerfile import ROOT
from tests.test_locks import PROJECT
from vidgen.server import health
from vidgen.settings import Settings, describe

DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {"worker", "server", "migrate", "demo-worker", "demo"}
SETTINGS = {setting.name for setting in describe()}
GRACE_S: float = Settings.model_fields["shutdown_grace_s"].default
# Read by the platform or by Python, not by us.
FOREIGN = {"PORT", "PYTHONUNBUFFERED"}
UNIT = DEPLOY / "vidgen-worker@.service"


def check(tool: str, *arguments: object, stdin: str | None = None) -> str:
    """Run *tool*, which lies beside this Python; what it says."""
    program = shutil.which(tool, path=str(Path(sys.executable).parent))
    assert program is not None, f"{tool} is missing: pip install -r deploy/requirements-test.lock"
    done = subprocess.run(
        [program, *map(str, arguments)],
        input=stdin,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


# --- Docker ---------------------------------------------------------------------------------------


def test_hadolint_finds_nothing() -> None:
    check("hadolint", "Dockerfile")


def test_shellcheck_finds_nothing_in_the_scripts() -> None:
    check("shellcheck", *DEPLOY.glob("*.sh"), ROOT / ".ci" / "run")


def test_compose_has_the_shape_of_its_specification() -> None:
    check("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml")


def test_compose_starts_in_an_order_that_is_possible() -> None:
    for name, service in SERVICES.items():
        for needed, how in service.get("depends_on", {}).items():
            other = SERVICES[needed]
            assert set(other.get("profiles", [])) <= set(service.get("profiles", []))
            if how["condition"] == "service_healthy":
                image_has_one = needed in {*OURS, "simulators"}
                assert "healthcheck" in other or image_has_one, (name, needed)
            else:
                assert how["condition"] == "service_completed_successfully"
                assert other.get("restart") != "unless-stopped", (name, needed)


def test_workers_of_compose_can_be_many() -> None:
    assert SERVICES["worker"].keys() & {"container_name", "ports"} == set()
    assert "profiles" not in SERVICES["worker"]


@pytest.mark.parametrize("name", sorted(OURS))
def test_what_compose_runs_of_ours_is_closed_and_has_no_secret_in_its_environment(
    name: str,
) -> None:
    service = SERVICES[name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["environment"].keys() <= SETTINGS
    assert "secrets:/run/secrets:ro" in service["volumes"]
    secret = {name for name in SETTINGS if re.search("KEY|TOKEN|SECRETS$|_URL$", name)}
    told = {name: text for name, text in service["environment"].items() if name in secret}
    assert {text for text in told.values() if not text.startswith("http://")} <= {"simulated"}


def test_what_compose_opens_is_open_on_this_machine_only() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]

    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_every_image_of_compose_has_a_tag_that_is_meant() -> None:
    for service in SERVICES.values():
        _, _, tag = service["image"].rpartition(":")
        assert re.match(r"v?\d|local", tag), service["image"]


def test_one_service_of_compose_builds_each_tag() -> None:
    built = [service["image"] for service in SERVICES.values() if "build" in service]

    assert len(built) == len(set(built)) == 2
    for name, service in SERVICES.items():
        if service["image"] in built and "build" not in service:
            assert service["pull_policy"] == "never", name
            assert builder_before(name, service["image"]), name


def builder_before(name: str, image: str) -> bool:
    """Whether the service that builds *image* is among those that *name* waits for."""
    return any(
        (SERVICES[needed]["image"] == image and "build" in SERVICES[needed])
        or builder_before(needed, image)
        for needed in SERVICES[name].get("depends_on", {})
    )


def test_redis_in_compose_keeps_what_it_is_given() -> None:
    said = " ".join(SERVICES["redis"]["command"])

    assert "--appendonly yes" in said
    assert "--maxmemory-policy noeviction" in said
    assert "256mb" in said


def scripts() -> Iterator[str]:
    for service in SERVICES.values():
        for words in (service.get("entrypoint", []), service.get("command", [])):
            if "-ec" in words:
                yield words[-1].replace("$$", "$")


def test_shellcheck_finds_nothing_in_compose() -> None:
    found = list(scripts())

    assert len(found) == 2
    for script in found:
        check("shellcheck", "--shell=sh", "-", stdin=re.sub(r"\$\{(\w+):-(\d+)\}", r"\2", script))


# --- Kubernetes -----------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["base", "production"])
def resources(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """What `kubectl apply --kustomize` would send."""
    rendered = check("kubectl", "kustomize", DEPLOY / "kubernetes" / request.param)
    return list(yaml.safe_load_all(rendered))


def of_kind(resources: list[dict[str, Any]], *kinds: str) -> list[dict[str, Any]]:
    return [each for each in resources if each["kind"] in kinds]


def pods(resources: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each["spec"]["template"] for each in of_kind(resources, "Deployment", "Job")]


def test_kubernetes_takes_every_resource(resources: list[dict[str, Any]]) -> None:
    kinds = {each["kind"] for each in resources}

    assert {"Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy", "Job"} <= kinds
    for resource in resources:
        if resource["kind"] != "ScaledObject":  # of KEDA, whose schema is nowhere at hand
            kubernetes_validate.validate(resource, "1.37", strict=True)


def test_pods_are_closed_and_nobody_is_root(resources: list[dict[str, Any]]) -> None:
    for pod in pods(resources):
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert pod["spec"]["securityContext"]["runAsUser"] == 10001
        assert pod["spec"]["automountServiceAccountToken"] is False
        [container] = pod["spec"]["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["image"].endswith(f":{PROJECT['version']}")


def test_pods_may_take_longer_to_end_than_a_worker_does(resources: list[dict[str, Any]]) -> None:
    [settings] = [each["data"] for each in of_kind(resources, "ConfigMap")]
    worker = next(pod for pod in pods(resources) if is_component(pod, "worker"))

    grace_s = float(settings["VIDGEN_SHUTDOWN_GRACE_S"])
    assert worker["spec"]["terminationGracePeriodSeconds"] > grace_s + 10
    assert settings.keys() <= SETTINGS
    [mount] = worker["spec"]["containers"][0]["volumeMounts"]
    assert mount["mountPath"] == settings["VIDGEN_SECRETS_DIR"]


def is_component(pod: dict[str, Any], name: str) -> bool:
    return bool(pod["metadata"]["labels"]["app.kubernetes.io/component"] == name)


def test_probes_ask_what_is_served(resources: list[dict[str, Any]]) -> None:
    routes = {getattr(route, "path", "") for route in health.routes}
    asked = [
        container[probe]["httpGet"]["path"]
        for pod in pods(resources)
        for container in pod["spec"]["containers"]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe")
        if probe in container
    ]

    assert set(asked) == {"/livez", "/readyz"}
    assert set(asked) <= routes


def test_whoever_selects_pods_finds_some(resources: list[dict[str, Any]]) -> None:
    labels = [pod["metadata"]["labels"].items() for pod in pods(resources)]
    for each in of_kind(resources, "Service", "PodDisruptionBudget", "Deployment"):
        selector = each["spec"]["selector"]
        wanted = selector.get("matchLabels", selector).items()
        assert sum(wanted <= found for found in labels) == 1, each["metadata"]["name"]


def test_workers_scale_by_a_metric_that_exists() -> None:
    [scaled] = yaml.safe_load_all((DEPLOY / "kubernetes/keda/scaling.yaml").read_text())
    [trigger] = scaled["spec"]["triggers"]
    readme = (ROOT / "README.md").read_text()

    named = re.findall(r"vidgen_\w+", trigger["metadata"]["query"])
    assert named == ["vidgen_queue_jobs"]
    assert f"`{named[0]}`" in readme


# --- hosts ----------------------------------------------------------------------------------------


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        assert "CI" not in os.environ, "systemd-analyze is missing; .ci/run installs it on Debian"
        pytest.skip("systemd-analyze is not installed (apt-get install systemd)")
    # It looks for the program, which is not where an operator will have put it.
    here = tmp_path / UNIT.name
    here.write_text(UNIT.read_text().replace("/opt/vidgen/bin/vidgen", shutil.which("true") or ""))

    done = subprocess.run([program, "verify", here], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_sets_and_loads_what_there_is() -> None:
    unit = UNIT.read_text()
    set_here = re.search(r"(?m)^Environment=(.*)$", unit)
    assert set_here is not None
    names = {pair.partition("=")[0] for pair in set_here[1].split()}

    assert names - FOREIGN <= SETTINGS
    assert set(re.findall(r"(?m)^LoadCredential=(\w+):", unit)) <= SETTINGS
    grace_s = re.search(r"(?m)^TimeoutStopSec=(\d+)$", unit)
    assert grace_s is not None
    assert float(grace_s[1]) > GRACE_S + 10


def test_render_gives_settings_that_there_are_and_time_to_end() -> None:
    blueprint = yaml.safe_load((DEPLOY / "render.yaml").read_text())
    worker, server, redis = blueprint["services"]
    [group] = blueprint["envVarGroups"]
    given = {each["key"] for each in [*worker["envVars"], *group["envVars"]] if "key" in each}

    asked = {each["key"] for each in worker["envVars"] if "sync" in each}

    assert given - FOREIGN <= SETTINGS
    assert not any("sync" in each for each in group["envVars"])  # Render refuses such a group
    assert {"S3_ENDPOINT_URL", "AWS_REGION", "AWS_SECRET_ACCESS_KEY"} <= asked
    assert server["envVars"] == worker["envVars"]
    assert {"DATABASE_URL", "REDIS_URL", "ADMIN_TOKEN"} <= given
    assert worker["maxShutdownDelaySeconds"] > GRACE_S + 10
    assert redis["maxmemoryPolicy"] == "noeviction"
    assert server["healthCheckPath"] in {getattr(route, "path", "") for route in health.routes}


def test_railway_starts_what_the_image_has_and_gives_it_time_to_end() -> None:
    deployment = json.loads((DEPLOY / "railway.json").read_text())["deploy"]

    assert deployment["startCommand"] in (ROOT / "Dockerfile").read_text()
    assert deployment["drainingSeconds"] > GRACE_S + 10
    assert deployment["healthcheckPath"] in {getattr(r, "path", "") for r in health.routes}
