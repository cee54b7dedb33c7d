"""The load test: ``make load``; ends with 0 where the server does what the objective asks for.

Users with the pauses of a person ask one question, three times as often as they ask after the
server's health. Predictions are judged; of failures, those of both.
"""

from __future__ import annotations

from typing import Any

from locust import HttpUser, between, events, task

PREDICTIONS_PER_SECOND = 100
P95_MS = 200
PATH = "/predict/intent"
FAILURES = 0.001  # share of requests


class MLModelUser(HttpUser):
    wait_time = between(1, 3)

    @task(3)
    def predict_intent(self) -> None:
        self.client.post(PATH, json={"query": "Can I afford a ₹50L loan?"})

    @task(1)
    def health_check(self) -> None:
        self.client.get("/health")


@events.quitting.add_listener
def judge(environment: Any, **_: Any) -> None:
    """Set the exit code, and say what was asked for and what was found."""
    found = environment.stats.get(PATH, "POST")
    rate, p95 = found.total_rps, found.get_response_time_percentile(0.95) or float("inf")
    failed = environment.stats.total.fail_ratio
    print(  # noqa: T201
        f"{rate:.0f} predictions a second (at least {PREDICTIONS_PER_SECOND}), "
        f"p95 {p95:.0f} ms (below {P95_MS}), "
        f"{100 * failed:.2f} % failed (at most {100 * FAILURES:.1f})"
    )
    met = rate >= PREDICTIONS_PER_SECOND and p95 < P95_MS and failed <= FAILURES
    environment.process_exit_code = 0 if met else 1
