"""Runs wrk with prepared POST requests and reads its figures."""

import asyncio
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weighbridge.errors import RefusedError

PATH = "/v1/chat/completions"
GRACE_SECONDS = 30.0

# Each thread sends all bodies in turn; sessions differ as bodies do.
SCRIPT = """
local requests = {}
local next_one = 0
init = function(arguments)
  for at = 1, tonumber(arguments[2]) do
    local file = assert(io.open(arguments[1] .. "/" .. at .. ".json", "rb"))
    local body = file:read("*a")
    file:close()
    requests[at] = wrk.format("POST", arguments[3], {
      ["content-type"] = "application/json", ["x-session-id"] = "session-" .. at,
    }, body)
  end
end
request = function()
  next_one = next_one % #requests + 1
  return requests[next_one]
end
done = function(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    "FIGURES {\\"requests\\":%d,\\"seconds\\":%.6f,\\"mean_ms\\":%.4f,\\"p50_ms\\":%.4f,"
      .. "\\"p99_ms\\":%.4f,\\"failed\\":%d}\\n",
    summary.requests, summary.duration / 1e6, latency.mean / 1e3, latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk sends: prepared bodies, numbered from 1, over so many connections."""

    directory: Path
    bodies: int
    connections: int


def prepare(directory: Path, bodies: Sequence[bytes], connections: int) -> Load:
    """Writes the script and the bodies."""
    directory.mkdir()
    for number, body in enumerate(bodies, start=1):
        (directory / f"{number}.json").write_bytes(body)
    (directory / "post.lua").write_text(SCRIPT, encoding="utf-8")
    return Load(directory, len(bodies), connections)


def find() -> str:
    """The wrk binary."""
    found = shutil.which("wrk")
    if found is None:
        raise RefusedError("bench transport needs wrk (Debian package wrk) on PATH")
    return found


async def run(url: str, load: Load, seconds: float) -> dict[str, Any]:
    """Sends for `seconds`; requests, seconds, mean_ms, p50_ms, p99_ms, failed."""
    process = await asyncio.create_subprocess_exec(
        find(),
        *("--threads", "1", "--connections", str(load.connections)),
        *("--duration", f"{max(1, round(seconds))}s", "--timeout", "30s"),
        *("--script", str(load.directory / "post.lua"), url, "--"),
        *(str(load.directory), str(load.bodies), PATH),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), seconds + GRACE_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise RefusedError("wrk did not end") from None
    text = output.decode("utf-8", "replace")
    for line in text.splitlines():
        if line.startswith("FIGURES "):
            figures: dict[str, Any] = json.loads(line.removeprefix("FIGURES "))
            return figures
    raise RefusedError(f"wrk failed: {text.strip()[-300:]}")
