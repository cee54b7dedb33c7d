"""The specification of the pipeline: steps in ``pipeline.toml``, parameters in the notebooks."""

from __future__ import annotations

import ast
import difflib
import json
import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nivesh_lib.errors import SpecError
from nivesh_lib.files import read_file
from nivesh_lib.records.schema import NUMBER, fits

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")  # of files; a dot would begin a part's name
_TYPES: dict[str, type] = {"int": int, "float": float, "str": str, "bool": bool}


@dataclass(frozen=True)
class Parameter:
    """One assignment of a notebook's ``parameters`` cell."""

    name: str
    type: type
    default: Any


@dataclass(frozen=True)
class Range:
    """Allowed values of a number: one or more spans, both ends included."""

    spans: tuple[tuple[float, float], ...]

    def __contains__(self, value: float) -> bool:
        return any(low <= value <= high for low, high in self.spans)

    def __str__(self) -> str:
        return " or ".join(
            f"{low}"
            if low == high
            else f"{low} or more"
            if high == math.inf
            else f"{low} to {high}"
            for low, high in self.spans
        )


class Step(BaseModel):
    """One notebook of the pipeline. Descriptions complete the messages about wrong values."""

    model_config = ConfigDict(frozen=True, strict=True)

    notebook: Path
    name: str = Field(description="a text")
    help: str = Field(description="a text")
    needs: list[str] = Field([], description="a list of step names")
    reads: list[str] = Field([], description="a list of files below the home folder")
    family: str = Field("intents", description="a text")
    quick: bool = Field(False, description="true or false")
    exclusive: bool = Field(False, description="true or false")
    threads: int = Field(1, ge=1, description="a whole number of at least 1")
    timeout_s: int = Field(600, ge=1, description="a whole number of at least 1, in seconds")
    profiles: dict[str, dict[str, Any]] = Field({}, description="one table for each profile")

    def parameters(self) -> dict[str, Parameter]:
        """Return the parameters that the notebook declares, by name."""
        return read_parameters(self.notebook)


@dataclass(frozen=True)
class Pipeline:
    """All steps in reading order, the profiles that exist, and ranges of parameters by name."""

    steps: tuple[Step, ...]
    profiles: tuple[str, ...]
    ranges: Mapping[str, Range] = field(default_factory=dict)

    def step(self, name: str) -> Step:
        """Return the step called ``name``, or by an unambiguous beginning such as ``03``."""
        found = [s for s in self.steps if s.name == name]
        found = found or [s for s in self.steps if s.name.startswith(name)]
        if len(found) != 1:
            names = ", ".join(s.name for s in self.steps)
            several = " Repeat --only for each." if "," in name else ""
            raise SpecError(f"no step {name!r} in pipeline.toml.{several} There are: {names}")
        return found[0]

    def with_needs(self, names: Iterable[str]) -> tuple[Step, ...]:
        """Return the named steps and all that they need, in reading order."""
        wanted = {self.step(name).name for name in names}
        for step in reversed(self.steps):  # a step needs earlier ones only
            if step.name in wanted:
                wanted.update(step.needs)
        return tuple(s for s in self.steps if s.name in wanted)


def load_pipeline(folder: Path) -> Pipeline:
    """Read ``folder/pipeline.toml``.

    Raises
    ------
    SpecError
        The file is missing or not TOML; a step has an unknown key, a value of the
        wrong kind, an unknown need, no notebook, or the needs form a circle.
    """
    path = folder / "pipeline.toml"
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SpecError(f"{path} is missing. Run from the repository or set NIVESH_HOME") from None
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{path}: not valid TOML ({error})") from None
    if not fits(tables, {"step": [dict], "profiles": [str]}):
        raise SpecError(
            f'{path}: it needs `profiles = ["default"]` and one [[step]] for each notebook'
        )
    unknown = set(tables) - {"step", "profiles", "ranges"}
    if unknown:
        raise SpecError(f"{path}: unknown key {sorted(unknown)[0]!r}")
    profiles = tuple(tables["profiles"])
    steps = tuple(_step(table, folder, profiles, path) for table in tables["step"])
    _check_needs(steps, path)
    return Pipeline(steps, profiles, _ranges(tables.get("ranges", {}), path))


def _ranges(table: Any, path: Path) -> dict[str, Range]:
    """Return what ``[ranges]`` allows: ``[low, high]``, ``[low]``, or a list of these."""
    found = {}
    for name, given in table.items() if isinstance(table, dict) else [("[ranges]", table)]:
        spans = given if fits(given, [list]) and given else [given]
        if not all(fits(span, [NUMBER]) and len(span) in (1, 2) for span in spans):
            raise SpecError(f"{path}, ranges: {name} = {given!r} is not [low, high] or [low]")
        found[name] = Range(tuple((span[0], [*span, math.inf][1]) for span in spans))
        if not all(low <= high for low, high in found[name].spans):
            raise SpecError(f"{path}, ranges: {name} = {given!r} ends below its beginning")
    return found


def _step(table: dict[str, Any], folder: Path, profiles: tuple[str, ...], path: Path) -> Step:
    where = f"{path}, step {table.get('name', '?')}"
    if unknown := sorted(set(table) - (set(Step.model_fields) - {"notebook"})):
        raise SpecError(f"{where}: unknown key {unknown[0]!r}")
    try:
        step = Step(notebook=folder / f"{table.get('name')}.ipynb", **table)
    except ValidationError as error:
        key = str(error.errors()[0]["loc"][0])
        if key not in table:
            raise SpecError(f"{where}: {key} is missing") from None
        wanted = Step.model_fields[key].description
        raise SpecError(f"{where}: {key} = {table[key]!r} is not {wanted}") from None
    if not _NAME.fullmatch(step.name):
        raise SpecError(f"{where}: name = {step.name!r} is not made of letters, digits, _ and -")
    if unknown := sorted(set(step.profiles) - set(profiles)):
        raise SpecError(f"{where}: profile {unknown[0]!r} is not in `profiles`")
    if not step.notebook.is_file():
        raise SpecError(f"{where}: {step.notebook} is missing")
    return step


def _check_needs(steps: tuple[Step, ...], path: Path) -> None:
    earlier: set[str] = set()
    for step in steps:
        for need in step.needs:
            if need not in earlier:  # reading order is pipeline order, so circles cannot be
                raise SpecError(
                    f"{path}, step {step.name}: needs {need!r}, which is not an earlier step"
                )
        if step.name in earlier:
            raise SpecError(f"{path}: step {step.name} stands there twice")
        earlier.add(step.name)


def read_notebook(path: Path) -> dict[str, Any]:
    """Return a notebook as plain JSON, without importing nbformat."""
    try:
        notebook = json.loads(read_file(path))
        notebook["cells"]
    except RecursionError:
        raise SpecError(f"{path}: cannot be read as a notebook (nested too deeply)") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SpecError(f"{path}: cannot be read as a notebook ({error!r})") from None
    return notebook


def source_of(cell: Mapping[str, Any]) -> str:
    """Return a cell's source as one string."""
    source = cell["source"]
    return source if isinstance(source, str) else "".join(source)


def changed_parameters(notebook: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the values that differ from the defaults that the notebook declares."""
    declared = read_parameters(notebook)
    return {name: value for name, value in values.items() if declared[name].default != value}


def read_parameters(path: Path) -> dict[str, Parameter]:
    """Return what the cell tagged ``parameters`` assigns: typed literals only.

    Raises
    ------
    SpecError
        Not exactly one such cell, or a line in it that is not ``NAME: type = literal``.
    """
    tagged = [
        cell
        for cell in read_notebook(path)["cells"]
        if "parameters" in cell.get("metadata", {}).get("tags", [])
    ]
    if len(tagged) != 1:
        raise SpecError(f"{path}: {len(tagged)} cells are tagged `parameters`, 1 is needed")
    found = {}
    try:
        body = [(node, ast.unparse(node)) for node in ast.parse(source_of(tagged[0])).body]
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        why = getattr(error, "msg", "") or str(error) or "nested too deeply"
        raise SpecError(f"{path}: the parameters cell is no Python ({why})") from None
    for node, line in body:
        if not (
            isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value
        ):
            raise SpecError(
                f"{path}: {line!r} in the parameters cell is not `NAME: type = literal`"
            )
        kind = _TYPES.get(ast.unparse(node.annotation))
        if kind is None:
            raise SpecError(f"{path}: {line!r} needs one of the types {', '.join(_TYPES)}")
        try:
            value = ast.literal_eval(node.value)
        except ValueError:
            raise SpecError(f"{path}: the value in {line!r} is not a literal") from None
        found[node.target.id] = Parameter(node.target.id, kind, value)
    return found


def parse_settings(settings: Iterable[str]) -> dict[tuple[str, str], str]:
    """Turn ``NAME=VALUE`` and ``STEP.NAME=VALUE`` into ``{(step or "", name): text}``."""
    parsed = {}
    for setting in settings:
        target, equals, text = setting.partition("=")
        step, dot, name = target.strip().rpartition(".")
        if not equals or not name.isidentifier() or (dot and not step):
            raise SpecError(f"--set {setting!r}: write NAME=VALUE or STEP.NAME=VALUE")
        parsed[step, name] = text
    return parsed


def convert(text: str, parameter: Parameter) -> Any:
    """Return the text of a ``--set`` option as the parameter's type.

    Raises
    ------
    SpecError
        The text is not a value of that type.
    """
    try:
        if parameter.type is bool:
            return {"true": True, "false": False}[text.lower()]
        return parameter.type(text)
    except (ValueError, KeyError):
        wanted = "true or false" if parameter.type is bool else parameter.type.__name__
        raise SpecError(f"{parameter.name}={text!r} is not {wanted}") from None


def _typed(step: str, parameter: Parameter, value: Any) -> Any:
    if parameter.type is float and type(value) is int:
        return float(value)
    if type(value) is not parameter.type:
        raise SpecError(
            f"step {step}: {parameter.name} = {value!r} is {type(value).__name__}, "
            f"the notebook declares {parameter.type.__name__}"
        )
    return value


def _check_number(step: str, name: str, value: Any, allowed: Range | None) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise SpecError(f"step {step}: {name} = {value} is not a finite number")
    if allowed is not None and type(value) in (int, float) and value not in allowed:
        raise SpecError(
            f"step {step}: {name} = {value} is outside its range, {allowed} "
            "([ranges] in pipeline.toml)"
        )


def resolve_parameters(
    steps: Iterable[Step],
    *,
    profile: str,
    dataset: str | None,
    settings: Mapping[tuple[str, str], str],
    ranges: Mapping[str, Range] | None = None,
) -> dict[str, dict[str, Any]]:
    """Return each step's full parameters: defaults, then the profile, ``--dataset``, ``--set``.

    Raises
    ------
    SpecError
        A name that no chosen notebook declares, a value of the wrong type, a number
        outside its range or not finite. Nothing has been started by then.
    """
    resolved: dict[str, dict[str, Any]] = {}
    used: set[tuple[str, str]] = set()
    declared: set[str] = set()
    for step in steps:
        parameters = step.parameters()
        declared |= set(parameters)
        values = {name: _typed(step.name, p, p.default) for name, p in parameters.items()}
        for name, value in step.profiles.get(profile, {}).items():
            if name not in parameters:
                raise _unknown(name, parameters, f"pipeline.toml, step {step.name}, {profile}")
            values[name] = _typed(step.name, parameters[name], value)
        if dataset and "DATASET" in parameters:
            values["DATASET"] = dataset
        for (owner, name), text in settings.items():
            if owner and not step.name.startswith(owner):
                continue
            if name in parameters:
                values[name] = convert(text, parameters[name])
                used.add((owner, name))
        for name, value in values.items():
            _check_number(step.name, name, value, (ranges or {}).get(name))
        resolved[step.name] = values
    for owner, name in settings:
        if name == "DATASET":  # it also decides steps, provenance and the report's title
            raise SpecError("--set DATASET: use --dataset NAME@VERSION")
        if (owner, name) not in used:
            raise _unknown(name, declared, f"--set {owner + '.' if owner else ''}{name}")
    return resolved


def _unknown(name: str, known: Iterable[str], where: str) -> SpecError:
    names = sorted(known)
    near = difflib.get_close_matches(name.upper(), names, n=1)
    hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(names)}"
    return SpecError(f"{where}: no chosen notebook has a parameter {name!r}. {hint}")
