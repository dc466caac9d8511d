"""Metering where the picker sees replies on the stream that it chooses on: no second filter."""

from pathlib import Path

import pytest

from tests.conformance.gateways import Gateway
from tests.conformance.test_gateways import serving
from tests.e2e.harness import until, usage_lines, usage_of
from weighbridge.config.listen import Transport

IN_LINE: tuple[Gateway, ...] = ("header", "per_route", "streamed")


async def test_tokens_are_billed_as_the_replies_say(tmp_path: Path, transport: Transport) -> None:
    """Istio's and Envoy Gateway's ways, streamed or not, compressed or not."""
    path = tmp_path / "usage.jsonl"
    usage_log = {"path": str(path)}
    wanted: dict[str, tuple[int, int]] = {}
    async with serving(IN_LINE, tmp_path, transport, usage_log=usage_log) as found:
        for gateway in IN_LINE:
            async with found.through(gateway) as running:
                for coding in ("identity", "gzip"):
                    for streamed in (False, True):
                        options = {"stream_options": {"include_usage": True}} if streamed else {}
                        body = running.chat(
                            f"question {len(wanted)} " * 40,
                            max_tokens=20 + len(wanted),
                            ignore_eos=True,
                            stream=streamed,
                            **options,
                        )
                        reply = await running.post(body, {"accept-encoding": coding})
                        assert reply.status == 200, reply.body
                        sent = reply.headers.get("content-encoding", "identity")
                        assert sent == coding, (gateway, streamed)
                        wanted[reply.headers["x-request-id"]] = usage_of(reply.body)
        await until(lambda: len(usage_lines(path)) == len(wanted))
    lines = usage_lines(path)
    billed = {line["request_id"]: (line["prompt_tokens"], line["output_tokens"]) for line in lines}
    assert billed == wanted
    assert {line["source"] for line in lines} == {"usage"}
    first = [line["first_token_ms"] for line in lines]
    assert all(at is not None and at > 0 for at in first)


@pytest.mark.parametrize("gateway", IN_LINE)
async def test_a_client_that_leaves_pays_for_what_was_sent(
    tmp_path: Path, transport: Transport, gateway: Gateway
) -> None:
    path = tmp_path / "usage.jsonl"
    async with (
        serving([gateway], tmp_path, transport, usage_log={"path": str(path)}) as found,
        found.through(gateway) as running,
    ):
        body = running.chat("a long story", max_tokens=4000, ignore_eos=True, stream=True)
        async with running.client.post("/v1/chat/completions", json=body) as response:
            assert response.status == 200
            seen = 0
            async for sent in response.content:
                seen += sent.startswith(b"data: {")
                if seen == 50:
                    break
            response.close()
        await until(lambda: usage_lines(path))
    [line] = usage_lines(path)
    assert line["source"] == "observed"
    assert 40 <= line["output_tokens"] < 2000
