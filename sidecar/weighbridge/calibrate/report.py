"""The report of a calibration: one HTML file with its plots inside, and the same facts as JSON."""

import json
from html import escape
from pathlib import Path
from typing import Any

from weighbridge.calibrate.outcome import Outcome

UNITS = {
    "request": "ms a request, beside others",
    "prefill_per_tok": "ms a computed prompt token",
    "prefill_per_tok2_e6": "ms a million tokens squared",
    "image_per_tile": "ms an image tile",
    "decode_base": "ms a step",
    "decode_per_seq": "ms a sequence in a step",
    "decode_per_ktok": "ms a thousand tokens of context in a step",
    "moe": "ms a step with all experts",
}

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;
color:#1f2933;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}
.verdict{padding:.8rem 1rem;border-left:.4rem solid;background:#f4f6f8;font-size:1.05rem}
.trusted{border-color:#2f855a}.usable{border-color:#c98a14}.not{border-color:#b83232}
table{border-collapse:collapse}td,th{padding:.25rem .9rem .25rem 0;text-align:left;
border-bottom:1px solid #d9dee3}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
.faint{color:#7b8794}svg{max-width:100%;height:auto}pre{background:#f4f6f8;padding:.8rem;
overflow:auto}
"""


def write(directory: Path, outcome: Outcome, profile_text: str) -> None:
    """Writes report.html and report.json."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "report.json").write_text(
        json.dumps(outcome.json(), indent=1) + "\n", encoding="utf-8"
    )
    (directory / "report.html").write_text(html(outcome, profile_text), encoding="utf-8")


def html(outcome: Outcome, profile_text: str) -> str:
    """The page; nothing in it is fetched from elsewhere."""
    # matplotlib takes half a second to import: only who wants plots waits for it.
    from weighbridge.calibrate import plots  # noqa: PLC0415

    judgement, step = outcome.judgement, outcome.model.step
    kind = judgement.trust.split(" ", maxsplit=1)[0]
    warnings = "".join(f"<li>{escape(one)}</li>" for one in judgement.warnings)
    name = escape(str(outcome.profile["name"]))
    seconds = sum(one.seconds for one in outcome.measured)
    tokens = sum(one.tokens for one in outcome.measured)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Calibration of {name}</title><style>{STYLE}</style></head><body>
<h1>Calibration of {name}</h1>
<p class="verdict {kind}">{escape(judgement.verdict)}</p>
{f"<h2>What speaks against it</h2><ul>{warnings}</ul>" if warnings else ""}
<h2>Coefficients</h2>{coefficient_table(outcome)}
<p>Capacity {outcome.capacity:,.0f} MU a minute at a reference batch of {outcome.batch:,.0f};
first token {outcome.outside.first_ms:,.1f} ms later than the prompt's weight alone.
{len(outcome.measured)} measurements, {seconds:,.0f} s, {tokens:,} tokens.</p>
<h2>Held-out latencies</h2>{held_out_table(judgement.by_kind)}{plots.held_out(judgement.held_out)}
<h2>Costs</h2>{plots.curves(step, outcome.measured)}
<h2>Residuals by dimension</h2>
<p>Blue: fitted. Orange: held out. The band is ±5 %. A pattern is what the model lacks.</p>
{plots.residuals(step, outcome.measured)}
<h2>Steadiness</h2>{plots.controls(outcome.measured)}
<h2>Profile</h2><pre>{escape(profile_text)}</pre>
</body></html>
"""


def coefficient_table(outcome: Outcome) -> str:
    """Every coefficient with its interval; those that hardly matter are faint."""
    rows = "".join(
        f"<tr{'' if c.matters else ' class=faint'}><td>{escape(c.name)}</td>"
        f"<td class=n>{c.value:.5g}</td><td class=n>{c.low:.5g} to {c.high:.5g}</td>"
        f"<td class=n>{c.share:.0%}</td><td>{UNITS.get(c.name, '')}</td></tr>"
        for c in outcome.coefficients
    )
    return (
        "<table><tr><th>coefficient</th><th class=n>value</th><th class=n>95 % interval</th>"
        f"<th class=n>largest share</th><th>unit</th></tr>{rows}</table>"
    )


def held_out_table(by_kind: dict[str, dict[str, Any]]) -> str:
    """Errors by kind of latency."""
    rows = "".join(
        f"<tr><td>{escape(kind)}</td><td class=n>{found['count']:.0f}</td>"
        f"<td class=n>{found['median']:.1%}</td><td class=n>{found['p90']:.1%}</td></tr>"
        for kind, found in by_kind.items()
    )
    return (
        "<table><tr><th>latency</th><th class=n>count</th><th class=n>median error</th>"
        f"<th class=n>p90</th></tr>{rows}</table>"
    )
