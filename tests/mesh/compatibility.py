"""Writes docs/compatibility.md from what the tests ran: `make test-mesh`.

What no test ran says so. A run of some tests alone changes nothing of the others' rows.
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "compatibility.md"
RESULTS = "results.json"
CHECKS = {
    "test_the_control_plane_accepts_the_file": "takes our file",
    "test_turns_go_where_the_sidecar_says_and_sessions_stay": "sessions stay",
    "test_a_client_cannot_steer": "clients cannot steer",
    "test_answers_arrive_while_they_are_made": "streams",
    "test_metering_is_exact": "metering exact",
    "test_a_body_of_20_mb_is_passed_whole_or_refused_as_too_large": "20 MB",
    "test_a_replica_that_is_killed_costs_no_request": "replica killed",
    "test_a_sidecar_that_is_killed_costs_no_more_than_it_says": "sidecar killed",
    "test_of_two_sidecars_each_bills_what_it_decided": "two sidecars",
    "test_a_sidecar_that_leaves_as_the_chart_has_it_costs_nothing": "sidecar leaves",
}
WAYS = {
    "envoy-gateway": "Envoy Gateway 1.9.1, `envoy-gateway/policies.yaml`",
    "envoy-gateway-older-file": "Envoy Gateway 1.9.1, `policies-1.5-to-1.8.yaml`",
    "istio-inferencepool": "Istio (August 2026), `istio/inferencepool.yaml`",
    "istio-envoyfilter": "Istio (August 2026), `istio/envoyfilter.yaml`",
}
# What an outcome means where it is not plain success.
NOTES = {
    ("istio-inferencepool", "replica killed"): "503 for what it had",
    ("istio-inferencepool", "sidecar killed"): "500 until its endpoint has left",
    ("envoy-gateway", "two sidecars"): "take the other file",
    ("envoy-gateway", "20 MB"): "413",
    ("envoy-gateway-older-file", "20 MB"): "413",
    ("istio-envoyfilter", "20 MB"): "413",
}
HEAD = """\
# What works with what

What tests ran, with plain Envoy, Envoy Gateway, istiod and a Kubernetes 1.36.3 API server that
others wrote (`make test-mesh` writes this page). There were no nodes and no kubelet; each control
plane drove a plain Envoy 1.40.0, and the sidecar ran from the chart, with the native transport.
Where a table says `yes` of something that is killed, no request was lost.

## Control planes

"""
NOT_RUN = {
    "Envoy Gateway 1.5": "an API server with its CRDs takes `policies-1.5-to-1.8.yaml`, and refuses"
    " the other file",
    "Envoy Gateway 1.6, 1.7, 1.8": "the schemas and rules of their CRDs take that file",
    "kgateway": "an API server takes its file; an Envoy set up as kgateway does is driven",
    "Envoy AI Gateway": "its file fits the published schema; an Envoy set up as it does is driven",
    "a cluster with nodes, Istio's own build of Envoy": "nothing",
}


def shown(name: str, check: str, outcome: str | None) -> str:
    """A cell."""
    if outcome is None:
        return "not run"
    if outcome == "failed":
        return "**fails**"
    return NOTES.get((name, check), "yes" if outcome == "passed" else "not run")


def page(results: dict[str, str]) -> str:
    """The page of these outcomes, by test."""
    text = HEAD
    text += f"| | {' | '.join(CHECKS.values())} |\n|---|{'---|' * len(CHECKS)}\n"
    for name, what in WAYS.items():
        cells = [
            shown(name, check, results.get(f"{test}[{name}]")) for test, check in CHECKS.items()
        ]
        text += f"| {what} | {' | '.join(cells)} |\n"
    text += "\n| not run | what was checked |\n|---|---|\n"
    text += "".join(f"| {what} | {checked} |\n" for what, checked in NOT_RUN.items())
    text += (
        "\n## Envoy\n\nThe shipped files load, requests are steered and metered exactly, and none"
        "\nis lost when a replica or the sidecar is killed.\n\n| version | |\n|---|---|\n"
    )
    driven = r"test_an_envoy_is_driven\[(.*)\]"
    for test, outcome in sorted(results.items()):
        if found := re.fullmatch(driven, test):
            text += f"| {found[1]} | {shown('', '', outcome)} |\n"
    text += "| below 1.36 | not run |\n\n## Kubernetes\n\n| on a 1.36.3 API server | |\n|---|---|\n"
    for test, outcome in sorted(results.items()):
        name, _, of = test.removeprefix("test_").rstrip("]").partition("[")
        name = name.replace("_", " ") + (f": `{of}`" if of else "")
        if test.split("[")[0] not in {*CHECKS, "test_an_envoy_is_driven"}:
            text += f"| {name} | {shown('', '', outcome)} |\n"
    return text


def record(folder: Path, outcomes: dict[str, str]) -> None:
    """Adds the outcomes of a run to those before."""
    file = folder / RESULTS
    known = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(known | outcomes, indent=1, sort_keys=True))


if __name__ == "__main__":
    PAGE.write_text(page(json.loads((Path(sys.argv[1]) / RESULTS).read_text())), encoding="utf-8")
