"""What every committed notebook keeps to, whatever it says."""

from __future__ import annotations

import ast
import re
from statistics import median

import pytest

from nivesh_lib import paths
from nivesh_lib.pipeline.refresh import is_stale, notebooks
from nivesh_lib.pipeline.showcase import example
from nivesh_lib.pipeline.spec import load_pipeline, read_notebook, read_parameters, source_of
from nivesh_lib.reporting.markup import plain_links

NOTEBOOKS = notebooks()
ORDER = ("start_run(", "run.set_marks(", "run.load(", "run.finish(")
MARKED_FOR_INTENTS = "about-intents"


def cells(path, kind=None):
    return [c for c in read_notebook(path)["cells"] if kind in (None, c["cell_type"])]


def tags(cell):
    return cell.get("metadata", {}).get("tags", [])


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return request.param


def test_outputs_belong_to_the_present_source(notebook):
    assert not is_stale(notebook), "run `make notebooks`"


def test_parameters_are_few_typed_and_commented(notebook):
    parameters = read_parameters(notebook)
    (cell,) = [c for c in cells(notebook, "code") if "parameters" in tags(c)]
    lines = source_of(cell).strip().splitlines()
    assert 1 <= len(parameters) <= 10
    assert all("  # " in line for line in lines)


def test_every_number_among_the_parameters_has_a_range_that_holds_it(notebook):
    ranges = load_pipeline(paths.notebooks_dir()).ranges
    numbers = [p for p in read_parameters(notebook).values() if p.type in (int, float)]
    assert numbers
    for parameter in numbers:
        assert parameter.default in ranges[parameter.name], parameter


def test_every_range_is_of_a_parameter_that_some_notebook_has():
    declared = {name for path in NOTEBOOKS for name in read_parameters(path)}
    assert set(load_pipeline(paths.notebooks_dir()).ranges) <= declared


def test_it_opens_with_title_and_question(notebook):
    first = cells(notebook)[0]
    assert source_of(first).startswith("# ") and "**Question:**" in source_of(first)


def test_its_marks_are_set_before_anything_is_found_and_judged_at_the_end(notebook):
    code = [source_of(cell) for cell in cells(notebook, "code")]
    places = {call: [n for n, text in enumerate(code) if call in text] for call in ORDER}
    assert all(len(found) == 1 for found in places.values()), places
    assert [found[0] for found in places.values()] == sorted(n for (n,) in places.values())
    assert places["run.finish("][0] == len(code) - 1


def test_cells_are_short_and_do_not_branch(notebook):
    code = [cell for cell in cells(notebook, "code") if "parameters" not in tags(cell)]
    lines = [len(source_of(cell).splitlines()) for cell in code if "import " not in source_of(cell)]
    assert median(lines) <= 2 and max(lines) <= 15
    assert not any(re.search(r"\b(if|else)\b", source_of(cell)) for cell in code)


def test_few_names_are_imported(notebook):
    trees = [ast.parse(source_of(cell)) for cell in cells(notebook, "code")]
    imports = [node for tree in trees for node in ast.walk(tree) if hasattr(node, "names")]
    at_most = 14 if notebook.stem[:2] in ("06", "07") else 10
    assert sum(len(node.names) for node in imports) <= at_most


def test_a_sentence_follows_most_figures(notebook):
    every = cells(notebook)
    drawn = [n for n, cell in enumerate(every) if any(map(is_figure, cell.get("outputs", [])))]
    followed = sum(every[n + 1]["cell_type"] == "markdown" for n in drawn)
    assert followed >= 0.93 * len(drawn)


def is_figure(output):
    return "image/png" in output.get("data", {})


def test_the_example_report_is_of_the_same_run(notebook):
    """What a notebook claims is what the report recorded, to the last digit."""
    shown = {
        claim
        for cell in cells(notebook, "code")
        for output in cell["outputs"]
        for claim in re.findall(
            r"\A\*\*(.+)\*\*$",
            "".join(output.get("data", {}).get("text/markdown", "")),
            re.MULTILINE,
        )
    }
    result = example().result(notebook.stem)
    recorded = {plain_links(one.claim) for one in result.findings} if result else shown
    assert shown and shown <= recorded


def test_it_ends_with_what_it_means_and_what_follows(notebook):
    last = cells(notebook)[-1]
    assert last["cell_type"] == "markdown"
    assert "**What this means.**" in source_of(last) and "**Next:**" in source_of(last)


def test_it_has_no_functions_and_no_shell_cells(notebook):
    for cell in cells(notebook, "code"):
        assert not re.search(r"^\s*(def |class |!|%)", source_of(cell), re.MULTILINE)


def test_it_was_executed_without_errors_and_carries_checked_outputs(notebook):
    code = cells(notebook, "code")
    assert all(output["output_type"] != "error" for cell in code for output in cell["outputs"])
    assert any("nbval-check-output" in tags(cell) and cell["outputs"] for cell in code)


def test_a_sentence_stands_before_most_code_cells(notebook):
    every = cells(notebook)
    code = [i for i, cell in enumerate(every) if cell["cell_type"] == "code"]
    introduced = sum(every[i - 1]["cell_type"] == "markdown" for i in code)
    assert introduced / len(code) >= 0.9


def test_prose_types_no_results(notebook):
    for cell in cells(notebook, "markdown"):
        if MARKED_FOR_INTENTS not in tags(cell):
            assert not re.search(r"\b0\.\d{2,}\b|\d+\.\d+ ?%", source_of(cell))


def test_figures_have_alternative_texts(notebook):
    for cell in cells(notebook, "code"):
        for output in filter(is_figure, cell["outputs"]):
            assert len(output["metadata"]["image/png"]["alt"]) > 20


def test_it_is_of_readable_length_and_size(notebook):
    assert 20 <= len(cells(notebook)) <= 50
    assert notebook.stat().st_size < 1_000_000


def test_every_numbered_notebook_is_a_step():
    steps = {step.name for step in load_pipeline(paths.notebooks_dir()).steps}
    assert steps == {path.stem for path in paths.notebooks_dir().glob("[0-9]*.ipynb")}
