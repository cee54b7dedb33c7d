"""Made-up requests, by what the server's OpenAPI says: ``make fuzz``, ``ARGS="--cases 200"``.

Half of them fit the schema and half do not. No answer may be a server error, and each has to be
one that the OpenAPI tells of. Exit code 1 where one is not.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
import schemathesis
from hypothesis import HealthCheck, Phase
from schemathesis.specs.openapi import checks

from nivesh_lib import paths
from nivesh_lib.serving.app import create_app
from nivesh_lib.serving.settings import Settings

# What a query may hold, no schema says: spaces are joined before characters are counted. So a body
# that fits the schema may be refused, and one that does not may be answered.
# Which requests have a wrong key, it cannot tell once a right one is put in.
LEFT_OUT = [
    *(checks.positive_data_acceptance, checks.negative_data_rejection),
    checks.ignored_auth,
]
MODES = list(schemathesis.GenerationMode)
KEY = "a-key-of-the-fuzzer"
FEEDBACK = "POST /feedback"


@dataclass
class Found:
    """How many answers of each kind there were, and one example of each fault."""

    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    faults: dict[str, str] = field(default_factory=dict)


def fuzz(cases: int, folder: Path, seed: int = 0) -> Found:
    """Send so many requests, or a few more, to a server with the model that ships.

    Operations without a body are asked once: there is nothing to make up.
    """
    model = str(paths.shipped_model())
    app = create_app(Settings(model=model, keys=(KEY,), feedback=folder / "feedback.jsonl"))
    found = Found()

    def log(event: str, **fields: Any) -> None:
        if event == "failed":
            found.faults[f"{fields['error']} at {fields['where']}"] = "the log tells of it"

    app.state.service.log = log
    operations = [one.ok() for one in schemathesis.openapi.from_asgi("/openapi.json", app)
                  .get_all_operations()]  # fmt: skip
    asked = [(one, mode) for one in operations if one.body for mode in MODES]
    for operation in operations:
        if not operation.body:
            send(operation.Case(), found)
    for operation, mode in asked:
        most = -(-cases // len(asked))
        ask(operation, mode, most, found, list(app.state.service.ready().label_to_id), seed)
    return found


def ask(operation: Any, mode: Any, cases: int, found: Found, intents: list[str], seed: int) -> None:
    """Send the requests of one operation that fit its schema, or that do not."""

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=cases,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(
        case=operation.as_strategy(generation_mode=mode), draw=hypothesis.strategies.data()
    )
    def send_one(case: Any, draw: Any) -> None:
        if operation.label == FEEDBACK and mode.is_positive:  # no made-up intent is one there is
            case.body["intent"] = draw.draw(hypothesis.strategies.sampled_from([*intents, "x"]))
        send(case, found)

    send_one()


def send(case: Any, found: Found) -> None:
    """Send a request and look at the answer."""
    case.headers["X-API-Key"] = KEY
    answer = case.call()
    found.statuses[case.operation.label, answer.status_code] += 1
    try:
        case.validate_response(answer, excluded_checks=LEFT_OUT)
    except* Exception as faults:
        for fault in faults.exceptions:
            title = f"{case.operation.label}, {answer.status_code}: {type(fault).__name__}"
            found.faults.setdefault(title, f"{fault}\n{case.as_curl_command()}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz ARGS=…", description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000, help="requests (default 20,000)")
    parser.add_argument("--seed", type=int, default=0, help="of what is made up")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = fuzz(args.cases, Path(folder), args.seed)
    for (label, status), count in sorted(found.statuses.items()):
        sys.stdout.write(f"{label:<30}{status}{count:>8,}\n")
    for title, example in found.faults.items():
        sys.stdout.write(f"\n{title}\n{example}\n")
    sent = sum(found.statuses.values())
    sys.stdout.write(f"{sent:,} requests, {len(found.faults)} kinds of faults\n")
    return 1 if found.faults else 0


if __name__ == "__main__":
    sys.exit(main())
