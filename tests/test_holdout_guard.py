"""Only `nivesh release` opens a holdout: no other source or notebook leads to one.

What is looked for are names and files that lead to held-out rows. This finds mistakes, in review
before anywhere else; it cannot find somebody who hides what they do (docs/decisions/0010).
"""

from __future__ import annotations

import ast
import json
import re

import pytest

from nivesh_lib.ledger import read_ledger
from tests.conftest import REPOSITORY

# What leads to held-out rows, and the only files of the library that may name it.
MAY_NAME = {
    "open_holdout": {"data/holdout.py", "releases/holdout_evaluation.py"},
    "record_scores": {"data/holdout.py", "releases/holdout_evaluation.py"},
    "record_latency": {"data/holdout.py", "releases/holdout_evaluation.py"},
    "data.holdout": {"releases/holdout_evaluation.py"},
    "evaluate_on_holdout": {
        "releases/holdout_evaluation.py",
        "releases/release.py",
        "cli/release.py",
    },
    "releases.holdout_evaluation": {
        "releases/release.py",
        "releases/promotion.py",  # measures a latency on training queries
        "cli/release.py",
    },
    "_read_sides": {"data/versions.py", "data/holdout.py", "data/publishing.py"},
    "location": {"data/versions.py"},  # DataVersion.location, of a file with both sides
    "ledger.writing": {"data/holdout.py"},
    "holdout_ledger": {"ledger.py"},
}
# A string that names a published file: `data/intents/v1.1.0/intents.json` or a piece of it.
PUBLISHED = "a published file"
PUBLISHED_FILE = re.compile(r"\bv\d+\.\d+\.\d+/\w+\.json|\b(intents|out_of_scope)\.json")
SOURCES = sorted((REPOSITORY / "nivesh_lib").rglob("*.py"))
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))


def named(source: str) -> set[str]:
    """Return what leads to held-out rows among a source's names, imports and strings."""
    found = set()
    tree = ast.parse(source)
    documentation = {
        id(node.value) for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }  # fmt: skip
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.FunctionDef):
            found.add(node.id if isinstance(node, ast.Name) else node.name)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None) or ""
            for alias in node.names:
                full = f"{module}.{alias.name}".removeprefix("nivesh_lib.")
                found |= {alias.name, full, module.removeprefix("nivesh_lib.")}
                found.add(alias.name.removeprefix("nivesh_lib."))
        elif isinstance(node, ast.Constant) and id(node) not in documentation:
            text = str(node.value)
            found |= {name for name in MAY_NAME if name != "location" and name in text}
            found |= {PUBLISHED} if PUBLISHED_FILE.search(text) else set()
    return found & {*MAY_NAME, PUBLISHED}


def cells(path) -> list[str]:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_only_the_release_command_leads_to_held_out_rows(path):
    place = path.relative_to(REPOSITORY / "nivesh_lib").as_posix()
    forbidden = {name for name in named(path.read_text()) if place not in MAY_NAME.get(name, ())}
    assert not forbidden, f"{place} names {forbidden}; only `nivesh release` opens a holdout"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_notebook_leads_there(path):
    for source in cells(path):
        assert not named(source), f"{path.name}: {named(source)}"


def test_each_name_is_still_one_that_leads_there():
    for name, places in MAY_NAME.items():
        for place in places:
            assert name in named((REPOSITORY / "nivesh_lib" / place).read_text()), (name, place)


@pytest.mark.parametrize(
    "planted",
    [
        "from nivesh_lib.data.holdout import open_holdout as o\no('intents')",
        "import nivesh_lib.data.holdout as h\nh.open_holdout('intents')",
        "from nivesh_lib.data import holdout",
        "import importlib\nimportlib.import_module('nivesh_lib.data.holdout')",
        "from nivesh_lib.data import versions\ngetattr(versions, '_read_sides')(v)",
        "from nivesh_lib.data import versions\nversions._read_sides(v)",
        "import pandas as pd\npd.read_json(data.version.location)",
        "import pandas as pd\npd.read_json('data/intents/v1.1.0/intents.json')",
        "import json\njson.loads((folder / 'intents.json').read_text())",
        "from nivesh_lib.ledger import writing",
        "from nivesh_lib.releases import holdout_evaluation as e\ne.evaluate_on_holdout(c, x, {})",
        "from nivesh_lib.releases.holdout_evaluation import load_candidate",
        "(data_dir() / 'holdout_ledger.jsonl').write_text('')",
    ],
)
def test_a_planted_look_is_found(planted):
    assert named(planted)


@pytest.mark.parametrize(
    "harmless",
    [
        "data = load_dataset('intents@1.1.0')",
        "len(data.manifest['holdout'])",
        '"""Does not call open_holdout."""',
        "from nivesh_lib.ledger import openings",
    ],
)
def test_what_leads_nowhere_is_let_through(harmless):
    assert not named(harmless)


def test_the_ledger_of_this_repository_is_sound(monkeypatch):
    monkeypatch.setenv("NIVESH_HOME", str(REPOSITORY))
    assert isinstance(read_ledger(), list)
