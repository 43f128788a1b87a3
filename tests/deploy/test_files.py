"""The files for containers: each read by the tool that knows its kind, and held against the gateway and each other."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from ruamel.yaml import YAML

from tests.support.running import running_gateway

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
DOCKERFILE = DEPLOY / "Dockerfile"

#: The oldest and the newest Kubernetes that the manifests are held against.
VERSIONS = ("1.29", "1.37")

#: Where the gateway goes: names, the store, a collector of traces, 3xCoder.
REACHED = {53, 6379, 4318, 443}

#: Not Kubernetes' own: the Prometheus operator's, whose schema no package has. Its fields are held by name below.
FOREIGN = {"ServiceMonitor"}


def read(path: Path) -> list[dict[str, Any]]:
    """The documents of a YAML file."""
    return [document for document in YAML(typ="safe").load_all(path.read_text("utf-8")) if document is not None]


def tool(*words: str) -> None:
    """Run a tool of this environment, which has to be content."""
    program = str(Path(sys.executable).parent / words[0])
    done = subprocess.run([program, *words[1:]], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def manifests() -> Iterator[dict[str, Any]]:
    for name in read(KUBERNETES / "kustomization.yaml")[0]["resources"]:
        yield from read(KUBERNETES / name)


def manifest(kind: str, name: str = "image-gateway") -> dict[str, Any]:
    (found,) = (one for one in manifests() if one["kind"] == kind and one["metadata"]["name"] == name)
    return found


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = manifest("Deployment")["spec"]["template"]["spec"]
    return spec


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    """The image is built as its linter advises."""
    tool("hadolint", str(DOCKERFILE))


def test_the_image_holds_what_the_tree_has_and_no_more() -> None:
    """What the Dockerfile copies is what .dockerignore lets through: no secret and no data."""
    copied = {
        name
        for line in re.findall(r"^COPY (?!--)(.+) \S+$", DOCKERFILE.read_text("utf-8"), re.MULTILINE)
        for name in line.split()
    }
    ignore = (DEPLOY.parent / ".dockerignore").read_text("utf-8").splitlines()
    assert ignore[0] == "*"
    assert {line[1:] for line in ignore if line.startswith("!")} == copied
    assert all((DEPLOY.parent / name).exists() for name in copied)


def test_the_image_runs_without_rights() -> None:
    """Its last stage ends as a numbered user who is not root, the one that Kubernetes is told of."""
    last = DOCKERFILE.read_text("utf-8").split("\nFROM ")[-1]
    (user,) = re.findall(r"^USER (\d+):\d+$", last, re.MULTILINE)
    assert int(user) == pod()["securityContext"]["runAsUser"] > 0


@pytest.mark.slow
def test_the_image_knows_whether_it_is_well() -> None:
    """Its check asks the gateway itself, though Docker hands the container a proxy for the world; it fails without."""
    (text,) = re.findall(r"HEALTHCHECK .*\\\n +CMD (\[.+\])", DOCKERFILE.read_text("utf-8"))
    with running_gateway(upstream="http://127.0.0.1:9") as gateway:
        port = gateway.admin_url.rpartition(":")[2]
        command = [sys.executable, *json.loads(text.replace("9464", port))[1:]]

        def status() -> int:
            environ = {**os.environ, "http_proxy": "http://127.0.0.1:9"}
            return subprocess.run(command, env=environ, capture_output=True, timeout=20, check=False).returncode

        assert status() == 0
        gateway.stop()
        assert status() != 0


def test_compose_is_valid() -> None:
    """The file keeps to the Compose specification's schema."""
    tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(DEPLOY / "compose.yaml"))


def test_compose_mounts_what_is_there() -> None:
    """Every folder and file that Compose mounts or builds from is in the tree; secrets alone are the operator's."""
    compose = read(DEPLOY / "compose.yaml")[0]
    mounts = [
        volume["source"]
        for service in compose["services"].values()
        for volume in service["volumes"]
        if isinstance(volume, dict)
    ]
    assert len(mounts) == 4
    assert [source for source in mounts if not (DEPLOY / source).is_dir()] == []
    build = compose["services"]["gateway"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()


def test_the_gateway_can_write_nowhere_but_in_memory() -> None:
    """In Compose and Kubernetes its root is read-only, /tmp is memory, and it has no capability."""
    compose = read(DEPLOY / "compose.yaml")[0]["services"]["gateway"]
    assert compose["read_only"] is True
    assert [mount.split(":")[0] for mount in compose["tmpfs"]] == ["/tmp"]
    assert compose["cap_drop"] == ["ALL"]
    (container,) = pod()["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    writable = [mount for mount in container["volumeMounts"] if not mount.get("readOnly")]
    assert [mount["mountPath"] for mount in writable] == ["/tmp"]
    (volume,) = (volume for volume in pod()["volumes"] if volume["name"] == writable[0]["name"])
    assert volume["emptyDir"]["medium"] == "Memory"


@pytest.mark.parametrize("name", ["compose/gateway/config.yaml", "kubernetes/config.yaml"])
def test_the_configuration_is_right(name: str) -> None:
    """`gateway check` has nothing to say but that the team has no key yet, which is the operator's to make."""
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "check", str(DEPLOY / name), "--json"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (problem,) = json.loads(done.stdout)["warnings"]
    assert "has no key" in str(problem)


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_knows_every_manifest(version: str) -> None:
    """All that kustomize puts together is valid, with no field that Kubernetes does not know."""
    known = [one for one in manifests() if one["kind"] not in FOREIGN]
    assert {one["kind"] for one in known} == {
        "Deployment", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler", "NetworkPolicy",
    }  # fmt: skip
    for one in known:
        kubernetes_validate.validate(one, version, strict=True)


def test_kustomize_finds_its_files() -> None:
    """kustomize's own kind has the fields that its documentation names, and all files that it names are there."""
    (made,) = read(KUBERNETES / "kustomization.yaml")
    assert set(made) == {
        "apiVersion", "kind", "namespace", "resources", "configMapGenerator", "generatorOptions", "images",
    }  # fmt: skip
    files = [*made["resources"], *(name for generator in made["configMapGenerator"] for name in generator["files"])]
    assert [name for name in files if not (KUBERNETES / name).is_file()] == []
    assert {path.name for path in KUBERNETES.iterdir()} == {*files, "kustomization.yaml"}


def test_manifests_mean_each_other() -> None:
    """Every selector finds the pods, every port and every volume's source is one that is there."""
    labels = manifest("Deployment")["spec"]["template"]["metadata"]["labels"]
    ports = {port["name"] for port in pod()["containers"][0]["ports"]}
    made = read(KUBERNETES / "kustomization.yaml")[0]
    for one in manifests():
        spec = one["spec"]
        if one["kind"] == "Service":
            assert spec["selector"] == labels
            assert {port["targetPort"] for port in spec["ports"]} <= ports
        elif one["kind"] == "NetworkPolicy":
            assert spec["podSelector"]["matchLabels"] == labels
            assert {port["port"] for rule in spec["ingress"] for port in rule["ports"]} == ports
            assert {port["port"] for rule in spec["egress"] for port in rule["ports"]} == REACHED
        elif one["kind"] in {"Deployment", "PodDisruptionBudget"}:
            assert spec["selector"]["matchLabels"] == labels
        elif one["kind"] == "HorizontalPodAutoscaler":
            assert spec["scaleTargetRef"]["name"] == manifest("Deployment")["metadata"]["name"]
        else:
            admin = manifest("Service", "image-gateway-admin")
            assert spec["selector"]["matchLabels"].items() <= admin["metadata"]["labels"].items()
            assert {end["port"] for end in spec["endpoints"]} == {port["name"] for port in admin["spec"]["ports"]}
            assert not spec["selector"]["matchLabels"].items() <= manifest("Service")["metadata"]["labels"].items()
            assert spec.keys() == {"selector", "endpoints"}
            assert {field for end in spec["endpoints"] for field in end} <= {"port", "interval", "relabelings"}
            changes = [change for end in spec["endpoints"] for change in end["relabelings"]]
            assert changes == [{"targetLabel": "job", "replacement": "gateway"}]
    maps = {volume["configMap"]["name"] for volume in pod()["volumes"] if "configMap" in volume}
    assert maps == {generator["name"] for generator in made["configMapGenerator"]}
    assert pod()["containers"][0]["image"] == made["images"][0]["name"]


def test_secrets_are_where_the_configuration_looks() -> None:
    """The key that Compose hands over, and those that the page's Secret has, are the files that the configs name."""
    secrets = re.findall(r"file:(/\S+?)[\s},]", (KUBERNETES / "config.yaml").read_text("utf-8") + "\n")
    (mount,) = (mount["mountPath"] for mount in pod()["containers"][0]["volumeMounts"] if mount["name"] == "secrets")
    told = re.findall(r"--from-literal=([a-z-]+)=", (KUBERNETES / "kustomization.yaml").read_text("utf-8"))
    assert sorted(secrets) == sorted(f"{mount}/{name}" for name in told)
    compose = read(DEPLOY / "compose.yaml")[0]
    text = (DEPLOY / "compose/gateway/config.yaml").read_text("utf-8")
    given = compose["services"]["gateway"]["secrets"]
    assert re.findall(r"file:(/\S+?)[\s},]", text) == [f"/run/secrets/{name}" for name in given]
    assert set(given) <= set(compose["secrets"])


def test_everybody_waits_for_requests_to_end() -> None:
    """Compose and Kubernetes wait longer than the gateway takes to leave: the longest request and 20 s."""
    leaving = 280 + 20
    grace = read(DEPLOY / "compose.yaml")[0]["services"]["gateway"]["stop_grace_period"]
    assert int(grace.removesuffix("s")) > leaving
    (container,) = pod()["containers"]
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod()["terminationGracePeriodSeconds"] > leaving + pause
