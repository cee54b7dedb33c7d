from __future__ import annotations

import os

import pytest

from nivesh_lib.errors import SpecError
from nivesh_lib.pipeline.cache import differences, ingredients, key_of
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


def write(folder, *steps, top=""):
    tables = "\n".join(f"[[step]]\n{step}" for step in steps)
    (folder / "pipeline.toml").write_text(f'profiles = ["default", "full"]\n{top}\n{tables}')
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
        ('name="../01_a"\nhelp="a"', r"name = '\.\./01_a' is not made of letters"),
        ('name="/tmp/01_a"\nhelp="a"', "name = '/tmp/01_a' is not made of"),
        ('name="sub/01_a"\nhelp="a"', "name = 'sub/01_a' is not made of"),
        ('name="01_a.part"\nhelp="a"', "is not made of letters, digits, _ and -"),
        ('name=""\nhelp="a"', "name = '' is not made of"),
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


def test_files_nested_too_deeply_are_named(tmp_path):
    (tmp_path / "n.ipynb").write_text("[" * 100_000)
    with pytest.raises(SpecError, match=r"n\.ipynb: cannot be read as a notebook \(nested too dee"):
        read_parameters(tmp_path / "n.ipynb")
    (tmp_path / "pipeline.toml").write_text("profiles = " + "[" * 100_000)
    with pytest.raises(SpecError, match="not valid TOML"):
        load_pipeline(tmp_path)


def test_a_notebook_that_is_a_pipe_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "n.ipynb")
    with pytest.raises(SpecError, match="it is no regular file"):
        read_parameters(tmp_path / "n.ipynb")


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
        (f"N: int = {'-' * 900}1", "the parameters cell is no Python"),
        (f"N: int = {'-' * 100_000}1", "no Python .nested too deeply"),
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


RANGES = "\n[ranges]\nN = [[0, 0], [2, 9]]\nC = [0.1]"


def resolved(folder, settings=(), profile="default", step='name="01_a"\nhelp="a"', ranges=RANGES):
    pipeline = write(folder, step, top=ranges)
    return resolve_parameters(
        pipeline.steps,
        profile=profile,
        dataset=None,
        settings=parse_settings(settings),
        ranges=pipeline.ranges,
    )["01_a"]


@pytest.fixture
def allowed(folder):
    """A notebook whose defaults lie within the ranges."""
    write_notebook(folder / "01_a.ipynb", ["pass"], "N: int = 2  # n\nC: float = 0.5  # c")
    return folder


@pytest.mark.parametrize("setting", ["N=0", "N=2", "N=9", "C=0.1", "C=1e300"])
def test_numbers_within_their_range_are_taken_ends_included(allowed, setting):
    name, _, text = setting.partition("=")
    assert resolved(allowed, [setting])[name] == float(text)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("N=-1", "N = -1 is outside its range, 0 or 2 to 9"),
        ("N=1", "N = 1 is outside its range"),
        ("N=10", "N = 10 is outside its range"),
        (f"N={10**400}", "is outside its range"),
        ("C=0.09", r"step 01_a: C = 0\.09 is outside its range, 0\.1 or more"),
        ("C=nan", "C = nan is not a finite number"),
        ("C=inf", "C = inf is not a finite number"),
    ],
)
def test_settings_outside_their_range_are_refused(allowed, setting, message):
    with pytest.raises(SpecError, match=message):
        resolved(allowed, [setting])


def test_defaults_and_profiles_outside_their_range_are_refused(folder, allowed):
    step = 'name="01_a"\nhelp="a"\nprofiles.full={N=99}'
    with pytest.raises(SpecError, match="N = 99 is outside"):
        resolved(allowed, profile="full", step=step)
    write_notebook(folder / "01_a.ipynb", ["pass"], "N: int = 1  # n\nC: float = 0.5  # c")
    with pytest.raises(SpecError, match="N = 1 is outside"):
        resolved(folder)


def test_numbers_that_are_not_finite_are_refused_without_a_range(folder):
    for value in ("nan", "-inf"):
        with pytest.raises(SpecError, match="not a finite number"):
            resolved(folder, [f"C={value}"], ranges="")
    with pytest.raises(SpecError, match="not a finite number"):
        resolved(
            folder,
            profile="full",
            step='name="01_a"\nhelp="a"\nprofiles.full={C=nan}',
            ranges="",
        )


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ("ranges = 3", r"\[ranges\] = 3 is not"),
        ("[ranges]\nN = 3", r"N = 3 is not \[low, high\] or \[low\]"),
        ("[ranges]\nN = []", r"N = \[\] is not"),
        ("[ranges]\nN = [1, 2, 3]", "is not"),
        ('[ranges]\nN = ["a"]', "is not"),
        ("[ranges]\nN = [[1, 2], 3]", "is not"),
        ("[ranges]\nN = [2, 1]", "ends below its beginning"),
        ("[ranges]\nN = [nan, 1]", "ends below its beginning"),
    ],
)
def test_a_wrong_range_is_named(folder, ranges, message):
    with pytest.raises(SpecError, match=rf"pipeline\.toml, ranges: .*{message}"):
        write(folder, 'name="01_a"\nhelp="a"', top=ranges)


def test_a_profile_value_of_the_wrong_type_is_refused(folder):
    pipeline = write(folder, 'name="01_a"\nhelp="a"\nprofiles.full={N=0.5}')
    with pytest.raises(SpecError, match="the notebook declares int"):
        resolve_parameters(pipeline.steps, profile="full", dataset=None, settings={})


def test_a_file_that_a_step_reads_decides_its_key(home):
    (home / "notebooks").mkdir(exist_ok=True)
    write_notebook(home / "notebooks" / "09_c.ipynb", [])
    (home / "notebooks" / "pipeline.toml").write_text(
        'profiles = ["default"]\n[[step]]\nname = "09_c"\nhelp = "x"\nreads = ["data/log.jsonl"]\n'
    )
    (step,) = load_pipeline(home / "notebooks").steps
    without = ingredients(step, {}, {})
    (home / "data").mkdir(exist_ok=True)
    (home / "data" / "log.jsonl").write_text("{}\n")
    changed = ingredients(step, {}, {})
    assert differences(changed, without) == ["data/log.jsonl changed"]
    assert key_of(changed) != key_of(without)
