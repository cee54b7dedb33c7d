"""docs/api.md and the part on serving of docs/deployment.md: followed, and compared with code."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

import nivesh_lib
from nivesh_lib import paths
from nivesh_lib.releases.signing import PUBLIC_KEY
from nivesh_lib.serving import settings as limits
from nivesh_lib.serving.app import app
from nivesh_lib.serving.settings import Settings
from tests.conftest import REPOSITORY
from tests.deploy.test_image import SERVER, variables
from tests.serving.test_workers import serving

API = (REPOSITORY / "docs" / "api.md").read_text(encoding="utf-8")
RUNBOOK = (REPOSITORY / "docs" / "deployment.md").read_text(encoding="utf-8")
SERVING = RUNBOOK[RUNBOOK.index("\n## Serve\n") : RUNBOOK.index("\n## What was where\n")]
PLACE = "http://127.0.0.1:8000"
SCHEMAS = app.openapi()["components"]["schemas"]


def blocks(page: str) -> list[tuple[str, str]]:
    """Return the code blocks of a page, each with its language."""
    return re.findall(r"```(\w+)\n(.*?)```", page, re.DOTALL)


def table(page: str, *header: str) -> list[list[str]]:
    """Return the rows of the one table whose header begins so."""
    start = re.escape("| " + " | ".join(header) + " |")
    (body,) = re.findall(rf"^{start}.*\n\|[-|]+\n((?:\|.*\n)+)", page, re.M)
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in body.splitlines()]


def setting_names() -> set[str]:
    """Return the environment variables that a server reads."""
    package = Path(nivesh_lib.__file__).parent
    files = [
        *(package / "serving").glob("*.py"),
        package / "cli" / "serve.py",
        package / "paths.py",
    ]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    texts = [node.value for node in nodes if isinstance(node, ast.Constant)]
    names = {text for text in texts if isinstance(text, str)}
    return {name for name in names if re.fullmatch(r"NIVESH_[A-Z_]+|ML_API_KEY", name)} | {
        PUBLIC_KEY
    }


def words_for(schema: dict[str, Any]) -> str:
    """Return the type of a field as the page words it."""
    if "$ref" in schema:
        return f"`{schema['$ref'].rpartition('/')[2]}`"
    if "anyOf" in schema:
        *others, null = schema["anyOf"]
        assert null == {"type": "null"}
        return ", or ".join([*map(words_for, others), "null"])
    if schema["type"] == "array":
        items = words_for(schema["items"])
        items = re.sub("^string", "strings", items)
        if "maxItems" in schema:
            return f"list of {schema['minItems']} to {schema['maxItems']:,} {items}"
        return f"list of {items}"
    word = {"boolean": "true or false"}.get(schema["type"], schema["type"])
    if "maxLength" in schema:
        return f"{word} of at most {schema['maxLength']} characters"
    return (
        f"{word} from {schema['minimum']:g} to {schema['maximum']:g}"
        if "minimum" in schema
        else word
    )


def documented_schemas() -> dict[str, Any]:
    """Return every schema of the description, also those that stand within it."""
    found = dict(SCHEMAS)
    for operation in (one for path in app.openapi()["paths"].values() for one in path.values()):
        bodies = [operation.get("requestBody", {}), *operation["responses"].values()]
        for content in (one for body in bodies for one in body.get("content", {}).values()):
            if "title" in content.get("schema", {}) and "properties" in content["schema"]:
                found[content["schema"]["title"]] = content["schema"]
    return found


@pytest.mark.parametrize("name", documented_schemas())
def test_the_fields_of_the_page_are_those_of_the_description(name):
    schema = documented_schemas()[name]
    needed = {True: "yes", False: "no"}
    expected = [
        [f"`{field}`", words_for(shape), needed[field in schema.get("required", ())]]
        for field, shape in schema["properties"].items()
    ]
    rows = table(API, f"field of `{name}`", "type", "needed")
    assert [row[:3] for row in rows] == expected
    assert all(row[3] for row in rows)


def test_the_page_has_no_tables_of_other_fields():
    assert set(re.findall(r"field of `(\w+)`", API)) == set(documented_schemas())


def test_the_requests_of_the_page_are_those_of_the_description():
    expected = {
        f"`{method.upper()} {path}`": ", ".join(operation["responses"])
        for path, methods in app.openapi()["paths"].items()
        for method, operation in methods.items()
    }
    rows = table(API, "request", "for", "key", "answers")
    assert {row[0]: row[3] for row in rows} == expected


def test_every_problem_of_the_page_is_one_of_the_code_and_the_other_way_round():
    """Titles of the framework's own, 404 and 405, stand in no source of ours."""
    files = (Path(nivesh_lib.__file__).parent / "serving").glob("*.py")
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    calls = [n for n in nodes if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "Problem"]
    heads = [call.args[:2] for call in calls]
    raised = {
        tuple(a.value for a in h) for h in heads if all(isinstance(a, ast.Constant) for a in h)
    }
    rows = {(int(row[0]), row[1].strip("`")) for row in table(API, "status", "title")}
    assert rows == raised | {(404, "Not Found"), (405, "Method Not Allowed")}


def test_the_limits_of_the_page_are_those_of_the_code():
    assert f"at most {limits.MAX_CHARACTERS} characters, after" in API
    assert f"of up to {limits.MAX_BATCH:,} queries" in API
    assert f"more than {limits.MAX_BODY // 2**20} MiB" in API and limits.MAX_BODY % 2**20 == 0


def test_the_settings_of_the_page_are_those_that_a_server_reads():
    rows = {row[0].strip("`"): row[1].strip("`") for row in table(SERVING, "variable", "default")}
    assert set(rows) == setting_names()
    of_settings = {name: value for name, value in rows.items() if name != "NIVESH_FEEDBACK"}
    assert Settings.read(of_settings) == Settings.read({})
    assert paths.home() / rows["NIVESH_FEEDBACK"] == Settings.read({}).feedback


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[tuple[str, Path]]:
    """The address of the server that the page starts, on a free port, and its log."""
    if shutil.which("curl") is None:
        pytest.skip("there is no curl")
    folder = tmp_path_factory.mktemp("server")
    (line,) = (text for kind, text in blocks(API) if kind == "bash" and "serve" in text)
    key, program, *options = shlex.split(line)
    assert (program, options[0]) == (".venv/bin/nivesh", "serve")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(*key.split("="))
        patch.setenv("NIVESH_FEEDBACK", str(folder / "feedback.jsonl"))
        patch.setenv("PYTHONPATH", str(REPOSITORY))
        patch.chdir(REPOSITORY)
        with serving(folder / "log", *options[1:]) as (_, address):
            yield address, folder / "log"


def asked(page: str) -> list[tuple[str, str]]:
    """Return each command of a page that asks a server, with what the page says it prints."""
    found = blocks(page)
    pairs = zip(found, [*found[1:], ("", "")], strict=True)
    return [
        (text, answer if kind == "json" else "")
        for (_, text), (kind, answer) in pairs
        if text.startswith("curl")
    ]


def shape(value: Any) -> Any:
    """Return the names and types in an answer, which stay where its numbers change."""
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [shape(inner) for inner in value]
    return type(value)


@pytest.mark.parametrize(("command", "printed"), asked(API))
def test_a_command_of_the_page_prints_an_answer_of_that_shape(server, command, printed):
    call = ["bash", "-euo", "pipefail", "-c", command.replace(PLACE, server[0])]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    answer, expected = json.loads(done.stdout), json.loads(printed)
    assert shape(answer) == shape(expected)
    same = {"title", "status", "detail", "errors", "intent"} & set(expected)
    assert {name: answer[name] for name in same} == {name: expected[name] for name in same}


def test_the_client_of_the_page_gets_answers(server):
    (code,) = (text for kind, text in blocks(API) if kind == "python")
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(code.replace(PLACE, server[0]), {})
    assert out.getvalue().splitlines() == ["tax_planning", "a person"]


def test_the_headers_of_the_page_come_with_a_response(server):
    sent = {row[0].strip("`").split("`")[0] for row in table(API, "request", "what for")}
    assert sent == {"X-API-Key", "Content-Type: application/json", "X-Request-ID"}
    refused = httpx.post(f"{server[0]}/predict/intent", json={}, headers={"X-Request-ID": "a.b-1"})
    assert refused.status_code == 401 and refused.headers["X-Request-ID"] == "a.b-1"
    rows = [row[0] for row in table(API, "response", "what for")]
    for named in re.findall(r"`([^`]+)`", " ".join(rows)):
        header, _, value = named.partition(": ")
        assert header == "Retry-After" or value in refused.headers[header]


def test_both_keys_open_a_server_that_has_two(monkeypatch, tmp_path):
    (line,) = re.findall(r"^ML_API_KEY=old-key,new-key .*", SERVING, re.M)
    key, _, _, *options = shlex.split(line)
    monkeypatch.setenv(*key.split("="))
    monkeypatch.chdir(REPOSITORY)
    model = str(paths.shipped_model())
    with serving(tmp_path / "log", *options, "--model", model) as (_, address):
        for name, status in {"old-key": 200, "new-key": 200, "old-key,new-key": 403}.items():
            head = {"X-API-Key": name}
            sent = httpx.post(f"{address}/predict/intent", json={"query": "tax"}, headers=head)
            assert sent.status_code == status


def test_the_passwords_are_those_that_compose_asks_for_and_for_their_owner_alone(tmp_path):
    (command,) = (text for kind, text in blocks(SERVING) if kind == "bash" and "umask" in text)
    (tmp_path / "deploy").mkdir()
    subprocess.run(["bash", "-euc", command], cwd=tmp_path, check=True)
    file = tmp_path / "deploy" / ".env"
    pairs = dict(line.split("=", 1) for line in file.read_text().splitlines())
    compose = (REPOSITORY / "deploy" / "docker-compose.yml").read_text()
    assert set(re.findall(r"\$\{(\w+):\?", compose)) == set(pairs) - {"NIVESH_HOME"}
    assert all(len(value) > 40 for name, value in pairs.items() if name != "NIVESH_HOME")
    assert file.stat().st_mode & 0o777 == 0o600
    ignored = subprocess.run(["git", "check-ignore", "-q", "deploy/.env"], cwd=REPOSITORY)
    assert ignored.returncode == 0


def with_docker() -> list[str]:
    return re.findall(r"^docker .*", SERVING, re.M)


@pytest.mark.parametrize("command", with_docker())
def test_a_command_that_needs_docker_names_the_project_and_its_services(command):
    words = shlex.split(command.partition("|")[0])
    assert words[:4] == ["docker", "compose", "--project-directory", "deploy"]
    verb, *rest = words[4:]
    services = yaml.safe_load((REPOSITORY / "deploy" / "docker-compose.yml").read_text())[
        "services"
    ]
    others = {
        "up": {"--build", "--detach"},
        "ps": set(),
        "logs": {"--no-log-prefix"},
        "cp": {f"model-server:{variables(SERVER)['NIVESH_FEEDBACK']}", "feedback.jsonl"},
    }
    assert set(rest) <= others[verb] | set(services)


def test_what_is_looked_for_in_the_logs_is_found_there(server):
    address, log = server
    for path, number in {"/predict/intent": "order-66", "/ready": "order-67"}.items():
        httpx.request("GET", address + path, headers={"X-Request-ID": number})
    broken = '{"path":"/feedback","status":503}\n'
    found = [command.partition("| ")[2] for command in with_docker() if "|" in command]
    assert len(found) == 3
    for filtering in found:
        call = ["bash", "-euc", filtering]
        done = subprocess.run(call, input=log.read_text() + broken, capture_output=True, text=True)
        assert len(done.stdout.splitlines()) == 1, filtering


def test_the_fields_of_the_log_are_those_of_the_page(server):
    httpx.get(f"{server[0]}/ready")
    lines = [json.loads(line) for line in server[1].read_text().splitlines()]
    rows = table(SERVING, "field", "of", "what it is")
    known = {name for row in rows for name in re.findall(r"`(\w+)`", row[0])}
    assert {line["event"] for line in lines} == {"request", "serving"}
    assert {name for line in lines for name in line} <= known


def test_every_command_of_these_pages_is_followed_or_read():
    """What no test above takes up is listed here: commands of the shell, and make."""
    followed = ("curl", "docker", "ML_API_KEY=", "umask", "mkdir")  # mkdir: test_served.py
    first = [text for page in (API, SERVING) for kind, text in blocks(page) if kind == "bash"]
    others = [text for text in first if not text.startswith(followed)]
    assert others == [text for text in others if text.startswith("python3 -c")]
    for text in others:
        command = text.splitlines()[0]
        assert len(subprocess.check_output(["bash", "-euc", command], env=os.environ)) > 40
    assert "\nmake bench-serve\n" in SERVING
