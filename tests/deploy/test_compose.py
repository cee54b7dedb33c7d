"""deploy/docker-compose.yml and what it mounts: every name in them is one of something."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import Any
from urllib.parse import urlsplit

import pytest
import typer.main
import yaml

import nivesh_lib
from nivesh_lib import paths
from nivesh_lib.cli.app import app
from nivesh_lib.serving.middleware import KNOWN
from nivesh_lib.serving.settings import Settings
from tests.conftest import REPOSITORY
from tests.deploy.test_image import DEPLOY, MLFLOW, SERVER, all_of, command_of, variables
from tests.docs.test_serving import setting_names

COMPOSE = yaml.safe_load((DEPLOY / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DATABASE = SERVICES["postgres"]["environment"]
# What the documentation of each program names, for the programs that are not ours.
DOCUMENTED = {
    "grafana": {
        "GF_SECURITY_ADMIN_PASSWORD",
        "GF_ANALYTICS_REPORTING_ENABLED",
        "GF_ANALYTICS_CHECK_FOR_UPDATES",
        "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES",
    },
    "mlflow": {"PGPASSWORD", "MLFLOW_DISABLE_TELEMETRY", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION"},
    "postgres": {"POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD"},
}
GIVEN = {"ML_API_KEY": "k", "GRAFANA_PASSWORD": "g", "POSTGRES_PASSWORD": "p"}


def filled(text: str) -> str:
    """Return a value with the defaults of its variables, as where none is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def mounts(service: str) -> list[tuple[str, str, bool]]:
    """Return source, target and whether it is read-only, of each mount."""
    found = []
    for one in SERVICES[service].get("volumes", []):
        if isinstance(one, str):
            source, target, *mode = one.split(":")
            found.append((source, target, mode == ["ro"]))
        else:
            found.append((filled(one["source"]), one["target"], one["read_only"]))
    return found


def test_three_servers_have_two_cores_and_four_gigabytes_each():
    deploy = SERVICES["model-server"]["deploy"]
    assert deploy["replicas"] == 3
    assert deploy["resources"]["limits"] == {"cpus": "2", "memory": "4G"}


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_is_pinned_and_one_of_ours_is_built_at_this_version(service):
    image, build = SERVICES[service]["image"], SERVICES[service].get("build")
    assert re.search(r":v?\d+\.\d+(\.\d+)?$", image)
    if build:
        context = DEPLOY / build["context"]
        assert context.resolve() == REPOSITORY and (context / build["dockerfile"]).is_file()
        assert image.endswith(f":{nivesh_lib.__version__}")


@pytest.mark.parametrize("kind", ["volumes", "networks"])
def test_what_is_used_is_declared_and_what_is_declared_is_used(kind):
    used = {name for service in SERVICES.values() for name in service.get("networks", [])}
    if kind == "volumes":
        sources = {source for service in SERVICES for source, _, _ in mounts(service)}
        used = {source for source in sources if not source.startswith(".")}
    assert used == set(COMPOSE[kind])


def test_services_that_are_waited_for_are_there_and_tell_their_health():
    for service in SERVICES.values():
        waited = service.get("depends_on", [])
        assert set(waited) <= set(SERVICES)
        for name in waited if isinstance(waited, dict) else ():
            assert waited[name] == {"condition": "service_healthy"}
            assert SERVICES[name]["healthcheck"]


@pytest.mark.parametrize("service", SERVICES)
def test_what_is_mounted_from_the_repository_is_there_and_read_only(service):
    local = [mount for mount in mounts(service) if mount[0].startswith(".")]
    for source, _, read_only in local:
        folder = (DEPLOY / source).resolve()
        assert read_only
        assert folder == paths.releases_dir() or any(folder.iterdir())  # packages are not in git


def test_servers_find_the_log_and_the_packages_where_they_look(monkeypatch):
    monkeypatch.setenv("NIVESH_HOME", variables(SERVER)["NIVESH_HOME"])
    targets = {target for _, target, read_only in mounts("model-server") if read_only}
    assert targets == {str(paths.release_log().parent), str(paths.releases_dir())}
    assert mounts("model-server")[-1][1] == str(Settings.read(variables(SERVER)).feedback.parent)
    assert SERVICES["model-server"]["read_only"] and SERVICES["model-server"]["tmpfs"] == "/tmp"


def test_the_server_s_variables_are_settings_with_their_own_defaults():
    given = SERVICES["model-server"]["environment"]
    assert set(given) <= setting_names()
    others = {name: filled(value) for name, value in given.items() if name != "ML_API_KEY"}
    assert Settings.read(others) == Settings.read({})


def test_the_model_of_a_variable_is_served_as_that_of_the_option(monkeypatch):
    monkeypatch.setenv("NIVESH_SERVE_MODEL", "staging")
    monkeypatch.setenv("NIVESH_SERVE_NAME", "loans")
    serve = typer.main.get_command(app).commands["serve"]
    taken = serve.make_context("serve", command_of(SERVER)[2:]).params
    assert (taken["model"], taken["name"]) == ("staging", "loans")


@pytest.mark.parametrize("service", DOCUMENTED)
def test_other_variables_are_those_that_the_program_documents(service):
    assert set(SERVICES[service]["environment"]) == DOCUMENTED[service]


def test_secrets_are_asked_for_and_stand_in_no_file():
    asked = set()
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if re.search("KEY|PASSWORD", name):
                asked |= set(re.fullmatch(r"\$\{(\w+):\?.+\}", value).groups())
    assert asked == set(GIVEN)


def test_ports_are_open_to_this_machine_only_one_for_each_replica():
    (server,) = SERVICES["model-server"]["ports"]
    first, last = map(int, server["published"].split("-"))
    assert last - first + 1 == SERVICES["model-server"]["deploy"]["replicas"]
    assert server["host_ip"] == "127.0.0.1"
    assert all_of(SERVER, "EXPOSE") == [str(server["target"])]
    for name in set(SERVICES) - {"model-server"}:
        assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))


def test_mlflow_finds_its_database_and_keeps_artifacts_on_a_volume():
    command = command_of(MLFLOW)
    uri = urlsplit(command[command.index("--backend-store-uri") + 1])
    assert uri.hostname in SERVICES and uri.password is None  # it comes as PGPASSWORD
    assert (uri.username, uri.path) == (DATABASE["POSTGRES_USER"], f"/{DATABASE['POSTGRES_DB']}")
    kept = command[command.index("--artifacts-destination") + 1]
    assert ("artifacts", kept, False) in mounts("mlflow")
    assert f"--owner mlflow {kept}" in " ".join(all_of(MLFLOW, "RUN"))
    assert SERVICES["mlflow"]["networks"] == SERVICES[uri.hostname]["networks"]


def test_prometheus_scrapes_each_replica_where_it_answers():
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    (found,) = job["dns_sd_configs"]
    assert job["metrics_path"] in KNOWN and found["names"] == [job["job_name"]]
    assert SERVICES[job["job_name"]]["networks"] == SERVICES["prometheus"]["networks"]
    assert all_of(SERVER, "EXPOSE") == [str(found["port"])] and found["type"] == "A"
    target = {source: target for source, target, _ in mounts("prometheus")}
    options = SERVICES["prometheus"]["command"]
    assert f"--config.file={target['./prometheus']}/prometheus.yml" in options
    assert f"--storage.tsdb.path={target['prometheus']}" in options


@pytest.mark.parametrize("file", ["prometheus.yml", "local.yml"])
def test_prometheus_evaluates_the_rules_and_calls_the_servers_as_they_do(file):
    config = yaml.safe_load((DEPLOY / "prometheus" / file).read_text())
    assert config["rule_files"] == ["rules.yml"]
    rules = (DEPLOY / "prometheus" / "rules.yml").read_text()
    (job,) = set(re.findall(r'job="([^"]+)"', rules))
    assert job == config["scrape_configs"][0]["job_name"]


def test_grafana_finds_the_dashboard_and_its_source():
    provisioning = DEPLOY / "grafana" / "provisioning"
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "nivesh.yml").read_text())[
        "providers"
    ]
    mounted = {target: DEPLOY / source for source, target, _ in mounts("grafana")}
    assert list(mounted[provider["options"]["path"]].rglob("*.json")) == [
        DEPLOY / "grafana" / "nivesh.json"
    ]
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())[
        "datasources"
    ]
    dashboard = (DEPLOY / "grafana" / "nivesh.json").read_text()
    assert set(re.findall(r'"type": "prometheus",\s*"uid": "(\w+)"', dashboard)) == {source["uid"]}


def test_grafana_reads_prometheus():
    folder = DEPLOY / "grafana" / "provisioning" / "datasources"
    (source,) = yaml.safe_load((folder / "prometheus.yml").read_text())["datasources"]
    url = urlsplit(source["url"])
    assert source["type"] == url.hostname == "prometheus"
    assert SERVICES[url.hostname]["ports"][0].endswith(f":{url.port}")
    assert SERVICES[url.hostname]["networks"] == SERVICES["grafana"]["networks"]


def test_compose_itself_takes_the_file():
    docker = shutil.which("docker")
    known = [docker, "compose", "version"]
    if docker is None or subprocess.run(known, capture_output=True).returncode:
        pytest.skip("there is no Docker Compose")
    call = [docker, "compose", "--project-directory", str(DEPLOY), "config", "--quiet"]
    done = subprocess.run(call, env=os.environ | GIVEN, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("file", ["prometheus.yml", "local.yml"])
def test_prometheus_itself_takes_its_configuration(file):
    if shutil.which("promtool") is None:
        pytest.skip("there is no promtool")
    call = ["promtool", "check", "config", str(DEPLOY / "prometheus" / file)]
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
