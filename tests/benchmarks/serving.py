"""The HTTP server beside peers: ``make bench-serve``, ``ARGS="--short"`` for a trial.

A server has one core, what asks it another. Every server is started, asked and stopped once in
each round; each request asks another query, and no answer comes from a cache. Tables and the marks,
met or missed, go to standard output, everything to ``reports/load.json``. Peers that are not
installed are left out (extra ``bench``); wrk has to be there.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nivesh_lib import paths
from nivesh_lib.errors import NiveshError
from nivesh_lib.models.directory import model_hash
from nivesh_lib.reproducibility import environment, git_state, thread_environment
from nivesh_lib.serving.released import source_of
from tests.benchmarks.peer_data import intents, sample
from tests.benchmarks.peer_tables import table
from tests.benchmarks.peers import REPOSITORY, positive, say, version_of, written
from tests.benchmarks.serving_marks import LOADS, Round, capacity, marks
from tests.load.server import answer, free_port, started
from tests.load.server import environment as server_environment

RESULT = REPOSITORY / "reports" / "load.json"
MODELS = REPOSITORY / "reports" / "bench"
PACKAGES = ("fastapi", "uvicorn", "bentoml", "litserve", "mlflow", "onnxruntime")
_QUERY = "how do I save tax under 80C?"
_INTENT = re.compile(rb'"intent": ?"(\w+)"')
_OVERLOAD = 3  # times its capacity


@dataclass(frozen=True)
class Server:
    """How a server is started and asked: a body is ``before``, a query, ``after``."""

    name: str
    model: Path
    peer: str = ""  # of `serving_peers`; none is our server
    needs: str = "fastapi"
    path: str = "/predict/intent"
    before: str = '{"query": "'
    after: str = '"}'

    def command(self, port: int) -> list[str]:
        python = [sys.executable, "-m"]
        if self.peer:
            return [
                *python,
                "tests.benchmarks.serving_peers",
                self.peer,
                str(self.model),
                str(port),
            ]
        own = ["--model", str(self.model), "--port", str(port), "--workers", "1"]
        return [*python, "nivesh_lib", "serve", *own]


def servers(root: Path) -> list[Server]:
    """Return every server, with the models of `make_models`; and one of a release, if any is."""
    static, transformer, cascade = paths.shipped_model(), root / "ours-int8", root / "cascade"
    listed = {"before": '{"asked": [{"query": "', "after": '"}]}'}
    inputs = {"path": "/invocations", "before": '{"inputs": ["', "after": '"]}'}
    found = [
        Server("static", static),
        Server("cascade", cascade),
        Server("transformer", transformer),
        Server("constant", static, "constant"),
        Server("fastapi", transformer, "fastapi"),
        Server("bento", transformer, "bento", "bentoml", **listed),
        Server("litserve", transformer, "litserve", "litserve"),
        Server("mlflow", transformer, "mlflow", "mlflow", **inputs),
    ]
    with source_of() as source:
        return [*found, Server("release", source.folder)] if source.release else found


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-serve ARGS=…", description=__doc__)
    add = parser.add_argument
    add("--servers", metavar="A,B,C", help="some of them; the marks of others are unknown then")
    add("--rounds", type=positive, default=5, help="in which servers take turns (default 5)")
    add("--seconds", type=float, default=5.0, help="for each load (default 5)")
    add(
        "--short",
        action="store_true",
        help="a trial: one round, a second for each load",
    )
    args = parser.parse_args(arguments)
    if args.short:
        args.rounds, args.seconds = 1, 1.0
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    args = parsed(arguments)
    if shutil.which("wrk") is None or shutil.which("taskset") is None:
        raise NiveshError("wrk and taskset are needed: apt-get install wrk util-linux")
    if len(os.sched_getaffinity(0)) < 2:
        raise NiveshError("two cores are needed, one for a server and one for what asks it")
    root = MODELS / ("short" if args.short else "full")
    found = servers(root)
    names = args.servers.split(",") if args.servers else [one.name for one in found]
    if strange := set(names) - {one.name for one in found}:
        raise NiveshError(f"no server {min(strange)}: {', '.join(one.name for one in found)}")
    chosen = [one for one in found if one.name in names]
    if any(one.model.parent == root for one in chosen):
        make_models(root, short=args.short)
    with tempfile.TemporaryDirectory(prefix="bench-serve-") as folder:
        bench = Bench(args, Path(folder), chosen)
        bench.measure()
        bench.tell()
    return 1 if bench.report["failed"] else 0


def make_models(root: Path, *, short: bool) -> None:
    """Make an int8 transformer and a cascade with it, where they are not there yet."""
    from tests.benchmarks.engine_candidates import Order, artefacts, engines, wanted

    root.mkdir(parents=True, exist_ok=True)
    train = sample(intents().split(0)[0], 200 if short else None)
    order = Order(root, train, epochs=1 if short else 5)
    for name in wanted([engines()["cascade"]]):
        if not (root / name).is_dir():
            say(f"making {name}, once")
            shutil.rmtree(partial := root / f".{name}", ignore_errors=True)
            artefacts()[name].make(order, partial)
            partial.rename(root / name)


class Bench:
    """The measurements and report of one run."""

    def __init__(self, args: argparse.Namespace, folder: Path, chosen: list[Server]) -> None:
        self.args, self.folder, self.chosen = args, folder, chosen
        self.server_core, self.client_core = sorted(os.sched_getaffinity(0))[:2]
        self.queries = folder / "queries.txt"
        asked = intents().split(0)[1].texts  # which the network has not learned
        lines = [json.dumps(text, ensure_ascii=False)[1:-1] + "\n" for text in asked]
        self.queries.write_text("".join(lines), encoding="utf-8")
        self.asked = 0  # the number of the next query
        self.rounds: list[Round] = []
        self.intents: dict[Path, tuple[str, bytes]] = {}
        self.started = datetime.now(UTC)
        self.report: dict[str, Any] = {
            "started": self.started.isoformat(timespec="seconds"),
            "arguments": vars(args),
            "git": {name: git_state()[name] for name in ("commit", "dirty")},
            "environment": environment(),
            "packages": {name: version_of(name) for name in PACKAGES},
            "load_before": os.getloadavg(),
            "left_out": [one.name for one in chosen if not importlib.util.find_spec(one.needs)],
            "failed": {},
        }
        self.chosen = [one for one in chosen if one.name not in self.report["left_out"]]
        self.say_where()

    def say_where(self) -> None:
        machine, packages = environment()["processor"]["model"], self.report["packages"]
        say(f"{machine}, load {os.getloadavg()[0]:.1f}, {self.report['git']['commit'][:10]}")
        say(", ".join(f"{name} {version}" for name, version in packages.items()))
        if self.report["left_out"]:
            say(f"not installed, so left out: {', '.join(self.report['left_out'])}")
        if self.args.short:
            say("A trial: its figures say little.")

    # --- measurements ----------------------------------------------------------------------

    def measure(self) -> None:
        with self.running([sys.executable, *worker("responder", port=(port := free_port()))], port):
            said = self.client("ceiling", port=port)
        self.report["ceiling_per_second"] = said["per_second"]
        for number in range(self.args.rounds):
            self.rounds.append({})
            for server in self.chosen[:: -1 if number % 2 else 1]:
                if server.name in self.report["failed"]:
                    continue
                try:
                    self.rounds[-1][server.name] = self.turn(server)
                except (NiveshError, subprocess.SubprocessError) as error:
                    self.report["failed"][server.name] = str(error)
                    say(f"{server.name} failed: {error}")

    def turn(self, server: Server) -> dict[str, Any]:
        """Start a server, ask it in every way, and stop it; then time its model alone."""
        port, told = free_port(), {}
        with self.running(server.command(port), port, server):
            self.wrk(server, port, 4)  # warms up
            told["closed"] = {str(n): self.wrk(server, port, n) for n in LOADS}
            most = capacity(told)
            if not server.peer:
                own = {"port": port, "path": server.path}
                told["half"] = self.client("flow", rate=most / 2, **own)
                told["batch"] = self.client("many", port=port, path=f"{server.path}/batch")
            if server.name == "transformer":
                told["overload"] = self.client("flow", rate=most * _OVERLOAD, **own)
        if not server.peer:
            told["engine"] = self.worker(self.server_core, "engine", model=str(server.model))
        sys.stderr.write(f"  {server.name}: {most:,.0f} a second\n")
        return told

    def wrk(self, server: Server, port: int, connections: int) -> dict[str, Any]:
        seconds = max(1, round(self.args.seconds))  # wrk takes whole ones
        command = ["wrk", "-t", "1", "-c", str(connections), "-d", f"{seconds}s"]
        script = ["-s", str(Path(__file__).with_name("queries.lua"))]
        url = f"http://127.0.0.1:{port}{server.path}"
        asked = [str(self.queries), server.before, server.after, str(self.asked)]
        said = self.on(self.client_core, [*command, *script, url, "--", *asked])
        self.asked += 10_000
        told: dict[str, Any] = json.loads(said[said.rindex("figures ") + 8 :])
        return told

    def client(self, part: str, **job: Any) -> dict[str, Any]:
        return self.worker(self.client_core, part, **job)

    def worker(self, core: int, part: str, **job: Any) -> dict[str, Any]:
        """Return what a part of `serving_worker` finds on a core."""
        common = {"queries": str(self.queries), "seconds": self.args.seconds, "start": self.asked}
        self.asked += 10_000
        told: dict[str, Any] = json.loads(
            self.on(core, [sys.executable, *worker(part, **common, **job)])
        )
        return told

    def on(self, core: int, command: list[str]) -> str:
        """Return what a command prints, run on one core."""
        pinned = ["taskset", "-c", str(core), *command]
        done = subprocess.run(
            pinned, cwd=REPOSITORY, env=self.env(), capture_output=True, text=True, timeout=600
        )
        if done.returncode:
            raise NiveshError(f"{command[:3]}: {(done.stderr or done.stdout).strip()[-500:]}")
        return done.stdout

    def env(self) -> dict[str, str]:
        return {**server_environment(self.folder), **thread_environment(1), "NIVESH_CACHE": "off"}

    @contextlib.contextmanager
    def running(self, command: list[str], port: int, of: Server | None = None) -> Iterator[None]:
        """Run a server on its core until the block ends, from when it answers on."""
        pinned = ["taskset", "-c", str(self.server_core), *command]

        def ready() -> bytes:
            if of is None:
                return answer(port, "/")
            return answer(port, of.path, f"{of.before}{_QUERY}{of.after}".encode())

        with started(pinned, self.env(), ready) as (_, first):
            if of and of.peer != "constant":
                self.compare(of, first)
            yield

    def compare(self, server: Server, first: bytes) -> None:
        """See that servers of one model give one answer. Raises NiveshError where they do not."""
        intent = _INTENT.search(first)
        told = intent[1] if intent else first[:200]
        other, expected = self.intents.setdefault(server.model, (server.name, told))
        if told != expected:
            raise NiveshError(f"it answers {told!r}, and {other} {expected!r}")

    # --- the report ------------------------------------------------------------------------

    def tell(self) -> None:
        """Print tables and marks, and write the report."""
        names = [one.name for one in self.chosen if all(one.name in told for told in self.rounds)]
        say(f"\nAnswers a second and ms (p50) by connections; median of {len(self.rounds)} rounds")
        header = [
            "server",
            *(f"{n}: a second" for n in LOADS),
            *(f"{n}: ms" for n in LOADS),
            "refused",
        ]
        say(table(header, [[name, *self.cells(name)] for name in names]))
        found = marks(self.rounds)
        say(f"\nMarks: {sum(mark.met is True for mark in found)} of {len(found)} met")
        for mark in found:
            say(str(mark))
        say(f"What asks can send {self.report['ceiling_per_second']:,.0f} a second.")
        self.report |= {
            **self.headline(names),
            "rounds": self.rounds,
            "marks": [mark.as_dict() for mark in found],
            "load_after": os.getloadavg(),
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        say(f"\n{written(self.report, RESULT)}")

    def cells(self, name: str) -> Iterator[str]:
        for figure in ("per_second", "p50_ms"):
            for load in LOADS:
                each = [told[name]["closed"][str(load)][figure] for told in self.rounds]
                shown = f"{statistics.median(each):,.{0 if figure == 'per_second' else 2}f}"
                yield shown + (f" ({min(each):,.0f}-{max(each):,.0f})" if len(each) > 1 else "")
        loads = [load for told in self.rounds for load in told[name]["closed"].values()]
        yield f"{sum(load['refused'] for load in loads):,}"

    def headline(self, names: Sequence[str]) -> dict[str, Any]:
        """Return what a checklist reads: of the release, else of the model that ships."""
        name = next((one for one in ("release", "static") if one in names), "")
        models = [one.model for one in self.chosen if one.name == name]
        if not models:
            return {}
        most = statistics.median(capacity(told[name]) for told in self.rounds)
        digest = model_hash(models[0])
        return {"server": name, "digest": digest, "requests_per_second": round(most, 1)}


def worker(part: str, **job: Any) -> list[str]:
    return ["-m", "tests.benchmarks.serving_worker", part, json.dumps(job)]


if __name__ == "__main__":
    try:
        sys.exit(main())
    except NiveshError as error:
        sys.exit(str(error))
