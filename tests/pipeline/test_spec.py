from __future__ import annotations

import pytest

from nivesh_lib.errors import SpecError
from nivesh_lib.pipeline.spec import (
    Parameter,
    convert,
    load_pipeline,
    parse_settings,
    read_parameters,
    resolve_parameters,
)
from tests.pipeline.conftest import write_notebook


@pytest.fixture
def folder(tmp_path):
    for name in ("01_a", "02_b"):
        write_notebook(tmp_path / f"{name}.ipynb", ["pass"], "N: int = 1  # n\nC: float = 0.5  # c")
    return tmp_path


def write(folder, *steps):
    (folder / "pipeline.toml").write_text(
        'profiles = ["default", "full"]\n' + "\n".join(f"[[step]]\n{step}" for step in steps)
    )
    return load_pipeline(folder)


def test_steps_keep_their_order_and_needs_are_followed(folder):
    pipeline = write(folder, 'name="01_a"\nhelp="a"', 'name="02_b"\nhelp="b"\nneeds=["01_a"]')
    assert [s.name for s in pipeline.with_needs(["02"])] == ["01_a", "02_b"]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ('name="01_a"\nhelp="a"\nneed=[]', "unknown key 'need'"),
        ('name="09_z"\nhelp="z"', "is missing"),
        ('name="01_a"\nhelp="a"\nneeds=["02_b"]', "not an earlier step"),
        ('name="01_a"\nhelp="a"\nprofiles.fast={N=1}', "profile 'fast'"),
        ('name="01_a"', "help"),
        (
            'name="01_a"\nhelp="a"\ntimeout_s="soon"',
            r"step 01_a: timeout_s = 'soon' is not a whole",
        ),
        ('name="01_a"\nhelp="a"\ntimeout_s=-5', "timeout_s = -5 is not"),
        ('name="01_a"\nhelp="a"\ntimeout_s=1.5', r"timeout_s = 1\.5 is not"),
        ('name="01_a"\nhelp="a"\nthreads=0', "threads = 0 is not a whole number of at least 1"),
        ('name="01_a"\nhelp="a"\nthreads=true', "threads = True is not"),
        ('name="01_a"\nhelp="a"\nquick="yes"', "quick = 'yes' is not true or false"),
        ('name="01_a"\nhelp="a"\nexclusive=1', "exclusive = 1 is not"),
        ('name="01_a"\nhelp="a"\nneeds="x"', "needs = 'x' is not a list of step names"),
        ('name="01_a"\nhelp="a"\nneeds=[1]', r"needs = \[1\] is not"),
        ('name="01_a"\nhelp=3', "help = 3 is not a text"),
        ("name=1", "name = 1 is not a text"),
        ('name="01_a"\nhelp="a"\nfamily=[]', r"family = \[\] is not"),
        ('name="01_a"\nhelp="a"\nprofiles=3', "profiles = 3 is not one table"),
        ('name="01_a"\nhelp="a"\nprofiles.full=3', "is not one table for each profile"),
    ],
)
def test_a_wrong_step_is_named(folder, step, message):
    with pytest.raises(SpecError, match=message):
        write(folder, step)


def test_a_missing_or_broken_pipeline_file_is_named(tmp_path):
    with pytest.raises(SpecError, match="is missing"):
        load_pipeline(tmp_path)
    (tmp_path / "pipeline.toml").write_text('profiles = ["default"]\n[step]\nname = "01_a"')
    with pytest.raises(SpecError, match=r"one \[\[step\]\]"):
        load_pipeline(tmp_path)
    (tmp_path / "pipeline.toml").write_text("[[step")
    with pytest.raises(SpecError, match="not valid TOML"):
        load_pipeline(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('profiles = "default"\n[[step]]\nname = "01_a"', r"one \[\[step\]\]"),
        ('profiles = [1]\n[[step]]\nname = "01_a"', r"one \[\[step\]\]"),
        ('profiles = ["default"]\nstep = [1]', r"one \[\[step\]\]"),
        ('profile = 1\nprofiles = ["default"]\nstep = []', "unknown key 'profile'"),
    ],
)
def test_a_pipeline_file_of_another_shape_is_refused(tmp_path, text, message):
    (tmp_path / "pipeline.toml").write_text(text)
    with pytest.raises(SpecError, match=rf"pipeline\.toml.*{message}"):
        load_pipeline(tmp_path)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("N = 1", "is not `NAME: type = literal`"),
        ("N: int = 1 + f()", "not a literal"),
        ("N: list = []", "needs one of the types"),
        ("import os", "is not `NAME: type = literal`"),
    ],
)
def test_a_parameters_cell_holds_typed_literals_only(tmp_path, source, message):
    write_notebook(tmp_path / "n.ipynb", ["pass"], source)
    with pytest.raises(SpecError, match=message):
        read_parameters(tmp_path / "n.ipynb")


def test_defaults_profile_dataset_and_settings_apply_in_this_order(folder):
    pipeline = write(folder, 'name="01_a"\nhelp="a"\nprofiles.full={N=5, C=2}')
    settings = parse_settings(["01_a.N=7"])
    resolved = resolve_parameters(pipeline.steps, profile="full", dataset=None, settings=settings)
    assert resolved["01_a"] == {"N": 7, "C": 2.0}


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [(int, "3", 3), (float, "1e-3", 0.001), (str, "a=b", "a=b"), (bool, "True", True)],
)
def test_settings_become_the_declared_type(kind, text, value):
    assert convert(text, Parameter("X", kind, kind())) == value


@pytest.mark.parametrize(("kind", "text"), [(int, "1.5"), (bool, "yes"), (float, "")])
def test_settings_of_the_wrong_type_are_refused(kind, text):
    with pytest.raises(SpecError, match="is not"):
        convert(text, Parameter("X", kind, kind()))


def test_a_profile_value_of_the_wrong_type_is_refused(folder):
    pipeline = write(folder, 'name="01_a"\nhelp="a"\nprofiles.full={N=0.5}')
    with pytest.raises(SpecError, match="the notebook declares int"):
        resolve_parameters(pipeline.steps, profile="full", dataset=None, settings={})
