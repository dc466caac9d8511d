"""What clients and disks can do to the sidecar: its memory stays bounded and others are served."""

import asyncio
import json
import resource
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.e2e.harness import Starter, memory, until
from tests.e2e.load import QUICK_HEALTH, load
from tests.e2e.test_faults import metric, report, under_way
from weighbridge.address import parse_host_port
from weighbridge.config.listen import Transport

MB = 1 << 20
SOON = 30.0
IDLE_STREAMS = 10_000
SPARE_FILES = 1_000
GROUP = 200


@pytest.fixture
def transport() -> Transport:
    """One transport: the core that must hold is the same in both."""
    return "native"


async def test_a_full_disk_for_the_usage_log_holds_up_nobody(
    start: Starter, tmp_path: Path
) -> None:
    path = tmp_path / "usage.jsonl"
    path.symlink_to("/dev/full")
    usage_log = {"path": str(path), "interval_seconds": 0.1, "max_pending": 20}
    async with start(sidecar={"usage_log": usage_log}) as running:
        async with load(running) as outcome:
            await under_way(running, outcome, 100)

            async def counts_what_is_lost() -> bool:
                return await metric(running, "weighbridge_usage_records_lost_total") > 0

            await until(counts_what_is_lost, SOON)
        assert set(outcome.fates) == {"answered"}, outcome.refusals
        # Space again: what waits is written, whole lines only.
        path.unlink()
        await until(lambda: path.exists() and len(path.read_text().splitlines()) >= 20, SOON)
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert all(line["mu"] > 0 for line in lines)


async def test_ten_thousand_requests_whose_bodies_do_not_come(start: Starter) -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    streams = min(IDLE_STREAMS, soft - SPARE_FILES)
    async with start(sidecar={"health": QUICK_HEALTH}) as running:
        for number in range(5):
            assert (await running.post(running.chat(f"{number}"))).status == 200
        before = memory(running)
        where = parse_host_port(running.stack.config.envoy.listen)
        head = (
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b"content-length: 1000\r\n\r\n"
        )

        async def begin() -> asyncio.StreamWriter:
            _, writer = await asyncio.open_connection(where.host, where.port)
            writer.write(head + b'{"model"')
            await writer.drain()
            return writer

        async def held() -> int:
            return int((await running.stack.status())["streams"])

        writers: list[asyncio.StreamWriter] = []
        try:
            # Group by group: where a head is not answered within `message_timeout_seconds` Envoy
            # goes on alone, so a flood of heads on a busy machine leaves the sidecar fewer streams.
            while await held() < streams:
                assert len(writers) < streams + SPARE_FILES // 2, f"{await held()} streams are held"
                writers += await asyncio.gather(*(begin() for _ in range(GROUP)))
            grown = memory(running) - before
            # Some let a byte through now and then; others are served as ever.
            async with load(running) as outcome:
                for _ in range(5):
                    for writer in writers[:GROUP]:
                        writer.write(b" ")
                    await asyncio.sleep(0.1)
                await under_way(running, outcome, 50)
        finally:
            for writer in writers:
                writer.close()
        assert set(outcome.fates) == {"answered"}, outcome.refusals
        await running.settled()
        kb = grown / streams / 1024
        report(f"{streams} idle streams, {kb:.0f} KB each", outcome)
        assert kb < 64


async def test_a_tenant_that_sends_huge_bodies_costs_the_others_nothing(start: Starter) -> None:
    size, bodies = 100 * MB, 3

    async def body() -> AsyncIterator[bytes]:
        yield b'{"model":"' + running.stack.model.encode() + b'","max_tokens":1,"messages":'
        yield b'[{"role":"user","content":"'
        piece = b"word " * (MB // 5)
        for _ in range(size // len(piece)):
            yield piece
        yield b'"}]}'

    async with start(sidecar={"health": QUICK_HEALTH}) as running:
        for number in range(5):
            assert (await running.post(running.chat(f"{number}"))).status == 200
        before = memory(running)
        async with load(running) as outcome:
            huge = [running.post(body(), {"x-tenant-id": "huge"}) for _ in range(bodies)]
            replies = await asyncio.gather(*huge)
            await under_way(running, outcome, 50)
        # A replica that refuses to read on is gone in the midst of the body: Envoy says 503.
        assert {reply.status for reply in replies} <= {200, 400, 413, 503}
        # And no replica is held to be ill for it.
        states = {one["state"] for one in (await running.stack.status())["replicas"]}
        assert states == {"healthy"}
        assert set(outcome.fates) == {"answered"}, outcome.refusals
        grown = (memory(running, "VmHWM") - before) / MB
        report(f"{bodies} bodies of 100 MB, {grown:.0f} MB at most", outcome)
        assert grown < 100
