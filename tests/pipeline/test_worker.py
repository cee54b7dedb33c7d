"""What is kept of the outputs of cells."""

from __future__ import annotations

import time

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from nivesh_lib.pipeline import worker
from nivesh_lib.pipeline.run import run_pipeline
from nivesh_lib.pipeline.worker import _KEPT, _KEPT_HTML, _MARGIN, _clean, _clean_outputs

MAIL = "asha@example.com"
LINE = "pay rent of 5000 on time\n"


def outputs_after(*outputs):
    notebook = new_notebook(cells=[new_markdown_cell("# t"), new_code_cell(outputs=list(outputs))])
    _clean_outputs(notebook)
    nbformat.validate(notebook)
    return notebook.cells[1].outputs


def stream(text, name="stdout"):
    return new_output("stream", name=name, text=text)


def shown(**data):
    return new_output("display_data", {f"text/{kind}": text for kind, text in data.items()})


def test_a_short_output_is_kept_whole_and_anonymised():
    (output,) = outputs_after(stream(f"{LINE}{MAIL}"))
    assert output.text == f"{LINE}[EMAIL]"


def test_of_a_long_output_the_ends_are_kept_with_a_line_that_counts_the_rest():
    text = "first " + LINE * 10_000 + " last"
    kept = _clean(text)
    assert kept.startswith("first ") and kept.endswith(" last")
    assert f"\n[{len(text) - 2 * _KEPT:,} characters left out here]\n" in kept
    assert len(kept) < 2 * _KEPT + 100


@pytest.mark.parametrize("offset", range(-len(MAIL) - 1, 2))
def test_personal_data_at_the_cut_leaves_no_part(offset):
    text = list("x " * 40_000)
    for cut in (_KEPT, _KEPT + _MARGIN, len(text) - _KEPT, len(text) - _KEPT - _MARGIN):
        text[cut + offset : cut + offset + len(MAIL) + 2] = f" {MAIL} "
    kept = _clean("".join(text))
    assert not any(part in kept for part in ("asha", "sha@", "@exam", "example", "ple.com"))


def test_personal_data_everywhere_leaves_no_part_at_the_cut():
    kept = _clean(f"{MAIL} " * 10_000)
    assert "characters left out" in kept and not any(p in kept for p in ("asha", "ple.com"))


def test_pieces_of_one_stream_count_as_one_output():
    pieces = [stream(LINE * 400) for _ in range(50)]
    whole = [*pieces, stream("warning", "stderr"), stream("end")]
    first, second, third = outputs_after(*whole)
    assert "characters left out" in first.text and len(first.text) < 2 * _KEPT + 100
    assert (second.name, second.text, third.text) == ("stderr", "warning", "end")


def test_outputs_of_other_kinds_are_not_joined():
    assert len(outputs_after(shown(plain="a"), shown(plain="b"))) == 2


def test_a_long_table_is_shown_in_its_plain_form_and_never_cut_in_two():
    table = "<td>1</td>" * _KEPT_HTML
    with_plain, alone = outputs_after(shown(html=table, plain=LINE * 9_000), shown(html=table))
    assert list(with_plain.data) == ["text/plain"] and len(with_plain.data["text/plain"]) < 21_000
    assert "characters of HTML left out" in alone.data["text/plain"]
    (kept,) = outputs_after(shown(html=f"<b>{MAIL}</b>"))
    assert kept.data["text/html"] == "<b>[EMAIL]</b>"


def test_a_long_error_is_shortened_in_message_and_traceback():
    error = new_output("error", ename="E", evalue=LINE * 9_000, traceback=["E:", LINE * 9_000])
    (kept,) = outputs_after(error)
    assert len(kept.evalue) < 21_000 and [len(t) < 21_000 for t in kept.traceback] == [True, True]


def test_a_huge_output_is_shortened_before_the_slow_search_for_personal_data(monkeypatch):
    seen = []
    monkeypatch.setattr(worker, "anonymize_query", lambda text: seen.append(len(text)) or text)
    outputs_after(stream(LINE * 1_600_000))
    assert sum(seen) <= 2 * (_KEPT + _MARGIN)


def test_a_notebook_that_prints_ten_megabytes_leaves_small_files_in_good_time(home, change):
    change(home, "03_c", [f"for _ in range(10): print({LINE!r} * 40_000)"])
    started = time.monotonic()
    record, run = run_pipeline(dataset="toy@1.0.0", only=["03_c"])
    assert record.steps["03_c"].status == "done"
    assert time.monotonic() - started < 30
    page, notebook = (run.path / "notebooks" / f"03_c.{kind}" for kind in ("html", "ipynb"))
    assert "characters left out here" in page.read_text()
    assert page.stat().st_size < 100_000 and notebook.stat().st_size < 100_000


def test_a_notebook_that_fails_with_a_huge_message_is_reported_in_brief(home, change):
    change(home, "03_c", [f"raise ValueError({LINE!r} * 100_000)"])
    record, run = run_pipeline(dataset="toy@1.0.0", only=["03_c"])
    assert len(record.steps["03_c"].failure.detail) <= 500
    assert (run.path / "notebooks" / "03_c.html").stat().st_size < 200_000
