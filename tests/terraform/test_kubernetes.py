"""The Kubernetes manifests: valid by the schemas of Kubernetes, and true to tritonsync's own settings."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
import yaml

from tests.terraform.program import SOURCE
from tritonsync.settings import Settings

FOLDER = SOURCE / "examples" / "kubernetes"
MANIFESTS = {
    f"{file.name}:{document['kind']}/{document['metadata']['name']}": document
    for file in sorted(FOLDER.glob("*.yaml"))
    for document in yaml.safe_load_all(file.read_text())
}
PODS = {name: manifest for name, manifest in MANIFESTS.items() if "template" in manifest.get("spec", {})}
CONFIG = MANIFESTS["config.yaml:ConfigMap/tritonsync"]["data"]


def pod(name: str) -> dict[str, Any]:
    """Return the pod that a Deployment or Job makes."""
    spec: dict[str, Any] = PODS[name]["spec"]["template"]["spec"]
    return spec


def environment(container: dict[str, Any]) -> dict[str, str]:
    """Return the variables of a container, with the ConfigMap read."""
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        assert source == {"configMapRef": {"name": "tritonsync"}}
        found |= CONFIG
    for variable in container.get("env", []):
        reference = variable.get("valueFrom", {}).get("configMapKeyRef")
        found[variable["name"]] = CONFIG[reference["key"]] if reference else variable["value"]
    return found


@pytest.mark.parametrize("name", MANIFESTS)
@pytest.mark.parametrize("version", ["1.28", "1.34"])
def test_manifest_follows_the_schema(name: str, version: str) -> None:
    """Kubernetes accepts every field; strict, so that a misspelt one is refused and not dropped."""
    kubernetes_validate = pytest.importorskip(
        "kubernetes_validate", reason="no Kubernetes schemas: install tritonsync[test]"
    )
    assert kubernetes_validate.validate(MANIFESTS[name], version, strict=True) == version


def test_the_schema_check_can_fail() -> None:
    """A misspelt field is found, as deep as a container's."""
    kubernetes_validate = pytest.importorskip(
        "kubernetes_validate", reason="no Kubernetes schemas: install tritonsync[test]"
    )
    [source] = [document for document in MANIFESTS.values() if document["kind"] == "Job"]
    broken = yaml.safe_load(yaml.safe_dump(source).replace("mountPath", "mountpath"))
    with pytest.raises(kubernetes_validate.ValidationError, match="mountpath"):
        kubernetes_validate.validate(broken, "1.34", strict=True)


@pytest.mark.parametrize("name", PODS)
def test_variables_are_settings(name: str) -> None:
    """Every TRITONSYNC_ variable is one that tritonsync reads, with a value that it understands."""
    from tritonsync.settings import VARIABLES

    known = {variable for variable, _ in VARIABLES.values()}
    for container in itertools.chain(pod(name)["containers"], pod(name).get("initContainers", [])):
        variables = environment(container)
        assert {variable for variable in variables if variable.startswith("TRITONSYNC_")} <= known
        Settings.from_env(variables)


@pytest.mark.parametrize("name", PODS)
def test_only_the_job_writes(name: str) -> None:
    """Workers are readers, by their settings and by their account; the job is the writer."""
    [container] = pod(name)["containers"]
    settings = Settings.from_env(environment(container))
    if PODS[name]["kind"] == "Job":
        assert pod(name)["serviceAccountName"] == "tritonsync-writer"
        assert settings.may_write
    else:
        assert pod(name)["serviceAccountName"] == "tritonsync-reader"
        assert not settings.may_write


@pytest.mark.parametrize("name", PODS)
def test_every_pod_caches_at_the_same_path(name: str) -> None:
    """The folder that PyTorch is told to use is the volume, the same one in writer and workers."""
    for container in itertools.chain(pod(name)["containers"], pod(name).get("initContainers", [])):
        assert environment(container)["TORCHINDUCTOR_CACHE_DIR"] == CONFIG["TORCHINDUCTOR_CACHE_DIR"]
        [mount] = container["volumeMounts"]
        assert mount["mountPath"] == CONFIG["TORCHINDUCTOR_CACHE_DIR"]
        assert {"name": mount["name"], "emptyDir": {}} in pod(name)["volumes"]


def test_accounts_and_selectors_exist() -> None:
    """Each pod's account is made by service-accounts.yaml, and each Deployment selects its own pods."""
    accounts = {manifest["metadata"]["name"] for manifest in MANIFESTS.values() if manifest["kind"] == "ServiceAccount"}
    for name, manifest in PODS.items():
        assert pod(name)["serviceAccountName"] in accounts
        if manifest["kind"] == "Deployment":
            assert manifest["spec"]["selector"]["matchLabels"] == manifest["spec"]["template"]["metadata"]["labels"]


def test_readme_names_every_manifest() -> None:
    """The table in terraform/README.md lists the files that are there."""
    section = (SOURCE / "README.md").read_text().split("## Kubernetes")[1]
    assert set(re.findall(r"^\| `([\w-]+\.yaml)` \|", section, re.MULTILINE)) == {
        file.name for file in FOLDER.glob("*.yaml")
    }
