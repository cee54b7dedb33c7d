"""The model card of a release, ``README.md`` in its package: a view of records, no more.

Sections and metadata are those of the model hub
(https://github.com/huggingface/hub-docs/blob/main/modelcard.md).
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nivesh_lib.data.versions import Manifest, parse_ref, resolve
from nivesh_lib.files import write_text
from nivesh_lib.hash_chain import Entry
from nivesh_lib.paths import home, releases_dir
from nivesh_lib.records.estimate import from_columns
from nivesh_lib.records.finding import Finding
from nivesh_lib.records.metrics import estimate_in, flat_metrics, scores_in
from nivesh_lib.records.release import AnsweredRow, Gate, Release
from nivesh_lib.records.results import REQUIRED_SCORES
from nivesh_lib.releases.log import read_log
from nivesh_lib.releases.package import Package
from nivesh_lib.wording import described, human_bytes, milliseconds, shown

if TYPE_CHECKING:
    from huggingface_hub import ModelCard, ModelCardData


_TEMPLATES = Path(__file__).parent / "templates"
_MOST = 10  # rows that are named of those that the release in place answered rightly
_FAIR = {"met": "Established", "not met": "Gaps found", "undecided": "Not established"}
_SCORES: dict[str, tuple[str, dict[str, Any]]] = {  # the hub's names of scores, its settings
    "accuracy": ("accuracy", {}),
    "macro_f1": ("f1", {"average": "macro"}),
}


def write_card(package: Package) -> None:
    """Write the card of a package from its records and the release log.

    A package that is not on this machine has none to write.
    """
    if package.folder.is_dir():
        write_text(package.card, card_of(package).content)


def card_of(package: Package) -> ModelCard:
    """Return the card of a package; raises as `model_card`, or ReleaseError without a record."""
    release = package.release()
    return model_card(release, package.answers(), package.findings(), read_log(release.name))


def model_card(
    release: Release,
    rows: Sequence[AnsweredRow],
    findings: Mapping[str, Finding],
    history: Iterable[Entry] = (),
) -> ModelCard:
    """Return the card of a release.

    Parameters
    ----------
    rows
        The answers to the held-out rows.
    findings
        Those of the run by name, about the model that is released; a card says which it lacks.
    history
        Entries of the release log: a promotion of the version has the gates of its stage as they
        were judged then, and why it was made although one was not met.

    Raises
    ------
    DataError
        The manifest of the dataset is missing or was changed.
    """
    from huggingface_hub import ModelCard

    moves = [e for e in history if e["kind"] == "promotion" and e["version"] == release.version]
    manifest, flat = resolve(release.dataset).manifest, flat_metrics(release.metrics)
    fairness, folder = findings.get("fairness"), releases_dir().relative_to(home()).as_posix()
    body = _template().render(
        release=release,
        manifest={"description": "", "licence": "", "sources": [], **manifest},
        findings=findings,
        caveats=lambda names: dict.fromkeys(
            one for name in names if name in findings for one in findings[name].caveats
        ),
        fair=_FAIR.get(fairness.verdict if fairness else "", "Not judged"),
        place=f"{folder}/{release.name}/{release.version}/model",
        scores=scores_in(flat),
        latency=estimate_in(flat, "p95_ms"),
        slices={r["slice"]: from_columns(r, "accuracy", n=r["rows"]) for r in release.slices},
        lost=[row for row in rows if row.before == row.label != row.predicted],
        most=_MOST,
        gates=release.gates | {e["stage"]: [*map(Gate.model_validate, e["gates"])] for e in moves},
        moves=moves,
    )
    return ModelCard(f"---\n{_metadata(release, rows, manifest).to_yaml()}\n---\n\n{body}")


def _template() -> Any:
    import jinja2
    import markupsafe

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,  # what a macro returns is not escaped once more
        finalize=lambda value: (
            value if isinstance(value, markupsafe.Markup) else markupsafe.Markup(_plain(value))
        ),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["shown"] = shown
    environment.globals.update(
        titles=REQUIRED_SCORES,
        shown=shown,
        described=described,
        human_bytes=human_bytes,
        milliseconds=milliseconds,
    )
    return environment.get_template("card.md.j2")


def _plain(value: Any) -> str:
    """Return a text of one line that Markdown shows as it is written, also in a table."""
    line = html.escape(" ".join(str(value).split()), quote=False)
    return re.sub(r"\](?=[(\[:])", "&rsqb;", line).replace("|", "&vert;")


def _metadata(release: Release, rows: Sequence[AnsweredRow], manifest: Manifest) -> ModelCardData:
    """Return the hub's metadata; a language is a slice whose name is a code of two letters."""
    from huggingface_hub import EvalResult, ModelCardData

    name, version = parse_ref(release.dataset)
    slices = [*(r["slice"] for r in release.slices), *(s for row in rows for s in row.slices)]
    spoken = {s.removeprefix("language=") for s in slices if s.startswith("language=")}
    codes = {code for code in spoken if re.fullmatch("[a-z]{2,3}", code)}
    scores = {one: release.metrics[one]["value"] for one in _SCORES if one in release.metrics}
    return ModelCardData(
        language=sorted(codes) or None,
        **_licence(str(manifest.get("licence") or "")),
        tags=[str(manifest["task"]), release.kind, *sorted(spoken - codes)],
        datasets=[name],
        metrics=[_SCORES[one][0] for one in scores],
        pipeline_tag="text-classification",
        model_name=release.name,
        eval_results=[
            EvalResult(
                task_type="text-classification",
                dataset_type=name,
                dataset_name=name,
                dataset_split="test",
                dataset_revision=version,
                metric_type=_SCORES[one][0],
                metric_name=REQUIRED_SCORES[one],
                metric_value=value,
                metric_args=_SCORES[one][1] or None,
            )
            for one, value in scores.items()
        ],
    )


def _licence(stated: str) -> dict[str, Any]:
    """Return the hub's id of a licence; one that cannot be an id is another, with its name."""
    if re.fullmatch(r"[\w.-]*", stated):
        return {"license": stated.lower() or "unknown"}
    return {"license": "other", "license_name": stated}
