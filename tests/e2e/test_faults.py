"""Faults live, through Envoy, under load: what is lost, how soon it is over, what stays charged."""

import asyncio
import signal

import aiohttp
import pytest

from tests.e2e.harness import Running, Starter, until
from tests.e2e.load import QUICK_HEALTH, QUICK_TELEMETRY, Outcome, load, now
from weighbridge.config.listen import Transport
from weighbridge.shapes import Replica

QUICK = {"health": QUICK_HEALTH, "telemetry": QUICK_TELEMETRY}
# Generous: an idle machine needs a tenth.
SOON = 20.0


@pytest.fixture
def transport() -> Transport:
    """One transport: what is at work here is the same in both."""
    return "native"


def silent(seconds: float) -> dict[str, float]:
    """Envoy's settings where a replica may be silent for so long."""
    return {"replica_silence_seconds": seconds}


async def replica(running: Running, number: int) -> Replica:
    """The sidecar's view of a replica."""
    endpoint = running.stack.endpoints[number]
    status = await running.stack.status()
    found = [one for one in status["replicas"] if one["endpoint"] == endpoint]
    return found[0]


async def reaches(running: Running, number: int, *states: str, seconds: float = SOON) -> float:
    """Waits until a replica is in one of the states; how long that took, s."""
    began = now()

    async def is_there() -> bool:
        return (await replica(running, number))["state"] in states

    await until(is_there, seconds)
    return now() - began


async def under_way(running: Running, outcome: Outcome, requests: int = 60) -> int:
    """Waits until the load is one; the replica that has answered most of it."""
    await until(lambda: outcome.fates["answered"] >= requests, SOON)
    busiest = outcome.by(0).most_common(1)[0][0]
    return running.stack.endpoints.index(busiest)


def report(fault: str, outcome: Outcome, **seconds: float) -> None:
    """What docs/health.md tells of it; shown by `pytest -s`."""
    times = {name: round(value, 1) for name, value in seconds.items()}
    print(f"\nfault: {fault}: {dict(outcome.fates)} {times}")


@pytest.mark.parametrize("kind", ["crash", "unhealthy"])
async def test_a_replica_that_dies_loses_what_it_was_answering_and_comes_back(
    start: Starter, kind: str
) -> None:
    async with start(speed=8.0, sidecar=QUICK) as running, load(running) as outcome:
        victim = await under_way(running, outcome)
        await running.fault(victim, kind=kind)
        ejected = await reaches(running, victim, "ejected")
        since = now()
        await asyncio.sleep(0.5)
        assert running.stack.endpoints[victim] not in outcome.by(since)
        await running.fault(victim, kind="heal")
        healthy = await reaches(running, victim, "healthy")
        await until(lambda: running.stack.endpoints[victim] in outcome.by(since), SOON)
    report(kind, outcome, ejected=ejected, healthy=healthy)
    assert outcome.fates["lost"] == 0, outcome
    # Only a worker that it was answering at that moment.
    assert outcome.fates["broken"] <= 12
    assert outcome.fates["refused"] == 0, outcome.refusals


async def test_a_replica_that_hangs_is_left_and_its_unanswered_requests_go_on(
    start: Starter,
) -> None:
    silence = 3
    async with start(speed=8.0, sidecar=QUICK, envoy_settings=silent(silence)) as running:
        async with load(running, stream=False) as outcome:
            victim = await under_way(running, outcome)
            await running.fault(victim, kind="hang")
            ejected = await reaches(running, victim, "ejected")
            await asyncio.sleep(silence)
            await running.fault(victim, kind="heal")
            healthy = await reaches(running, victim, "healthy")
        report("hang", outcome, ejected=ejected, healthy=healthy)
        assert set(outcome.fates) == {"answered"}, outcome.refusals


@pytest.mark.long
async def test_an_engine_that_hangs_behind_good_pages_is_found(start: Starter) -> None:
    async with start(speed=8.0, sidecar=QUICK, envoy_settings=silent(5)) as running:
        async with load(running, stream=False) as outcome:
            victim = await under_way(running, outcome)
            await running.fault(victim, kind="hang", scope="engine")
            found = await reaches(running, victim, "degraded", "ejected")
            assert (await replica(running, victim))["health"]["cause"] in ("slow", "failures")
            await asyncio.sleep(2)
            await running.fault(victim, kind="heal")
        report("hang of the engine", outcome, found=found)
        assert set(outcome.fates) == {"answered"}, outcome.refusals


async def test_a_replica_ten_times_slower_is_drained_without_an_error(start: Starter) -> None:
    async with start(speed=4.0, sidecar=QUICK) as running:
        async with load(running, workers=24, tokens=60) as outcome:
            victim = await under_way(running, outcome, 60)
            await running.fault(victim, kind="slow", factor=10)
            found = await reaches(running, victim, "degraded", "ejected")
            assert (await replica(running, victim))["health"]["cause"] == "slow"
            await asyncio.sleep(1)
            since = now()
            await asyncio.sleep(3)
            served = outcome.by(since)
            await running.fault(victim, kind="heal")
        report("ten times slower", outcome, found=found)
        slow = served.pop(running.stack.endpoints[victim], 0)
        assert slow * len(served) < sum(served.values()) / 2, (slow, served)
        assert set(outcome.fates) == {"answered"}, outcome.refusals


async def test_a_replica_restarted_cold_is_known_to_be_cold(start: Starter) -> None:
    async with start(speed=8.0, sidecar=QUICK) as running, load(running) as outcome:
        victim = await under_way(running, outcome)

        async def restarts() -> bool:
            return bool((await running.stack.status())["health"]["restarts"] > 0)

        assert not await restarts()
        await running.fault(victim, kind="restart", down_ms=600)
        began = now()
        await until(restarts, SOON)
        noticed = now() - began
        healthy = await reaches(running, victim, "healthy")
        await until(lambda: running.stack.endpoints[victim] in outcome.by(began + 0.6), SOON)
    report("restarted cold", outcome, noticed=noticed, healthy=healthy)
    assert outcome.fates["lost"] == outcome.fates["refused"] == 0, outcome.refusals
    assert outcome.fates["broken"] <= 12


async def test_the_loss_of_a_whole_domain_loses_only_what_it_was_answering(
    start: Starter,
) -> None:
    async with start(speed=8.0, sidecar=QUICK) as running, load(running) as outcome:
        await under_way(running, outcome)
        lost = [n for n in range(6) if (await replica(running, n))["domain"] == "rack-1"]
        assert len(lost) == 2
        await asyncio.gather(*(running.fault(number, kind="crash") for number in lost))
        ejected = max([await reaches(running, number, "ejected") for number in lost])
        since = now()
        await asyncio.sleep(0.5)
        assert not {running.stack.endpoints[number] for number in lost} & set(outcome.by(since))
    report("a domain lost", outcome, ejected=ejected)
    assert outcome.fates["lost"] == outcome.fates["refused"] == 0, outcome.refusals
    assert outcome.fates["broken"] <= 12


async def test_a_restarted_sidecar_knows_again_what_ails_and_what_came_past_it(
    start: Starter,
) -> None:
    async with start(speed=1.0, sidecar=QUICK) as running, load(running, tokens=4) as outcome:
        await under_way(running, outcome)
        await running.fault(0, kind="crash")
        past = asyncio.create_task(work_past_the_sidecar(running, 2))
        try:
            await reaches(running, 0, "ejected")
            serve = running.family.running("serve")
            serve.kill()
            await serve.wait()
            began = now()
            await running.stack.start_sidecar()
            await reaches(running, 0, "ejected")

            async def sees_foreign_load() -> bool:
                foreign = (await replica(running, 2))["foreign"]
                return bool(foreign["requests"] >= 4 and foreign["mu"] > 0)

            await until(sees_foreign_load, SOON)
            rebuilt = now() - began

            async def decides() -> bool:
                return len(await running.stack.decisions()) > 10

            await until(decides, SOON)
        finally:
            past.cancel()
    report("sidecar killed", outcome, rebuilt=rebuilt)
    # Envoy goes on alone: a crashed replica's connections are refused and tried elsewhere.
    assert outcome.fates["lost"] == outcome.fates["refused"] == 0, outcome.refusals


async def work_past_the_sidecar(running: Running, number: int) -> None:
    """Eight long answers straight from a replica."""
    url = f"http://{running.stack.endpoints[number]}/v1/chat/completions"
    headers = {"x-emulate-output-tokens": "20000"}
    body = running.chat("a very long story", max_tokens=20_000, stream=True)
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:

        async def one() -> None:
            async with session.post(url, json=body, headers=headers) as response:
                await response.read()

        for _ in range(8):
            group.create_task(one())


async def test_a_frozen_sidecar_under_load_loses_nothing(start: Starter) -> None:
    async with start(speed=8.0, sidecar=QUICK) as running, load(running) as outcome:
        await under_way(running, outcome)
        serve = running.family.running("serve")
        serve.signal(signal.SIGSTOP)
        try:
            before = outcome.fates["answered"]
            began = now()
            await until(lambda: outcome.fates["answered"] > before + 30, SOON)
            served_alone = now() - began
        finally:
            serve.signal(signal.SIGCONT)
        first = len(await running.stack.decisions())

        async def decides() -> bool:
            return len(await running.stack.decisions()) > first

        began = now()
        await until(decides, SOON)
    report("sidecar frozen", outcome, served_alone=served_alone, decides=now() - began)
    assert set(outcome.fates) == {"answered"}, outcome.refusals


async def test_a_restarted_envoy_leaves_nothing_charged(start: Starter) -> None:
    async with start(speed=4.0, sidecar=QUICK) as running, load(running) as outcome:
        await under_way(running, outcome)
        envoy = running.family.running("envoy")
        envoy.kill()
        await envoy.wait()
        began = now()
        await running.settled()
        released = now() - began
        answered = outcome.fates["answered"]
        await running.stack.start_envoy()
        await until(lambda: outcome.fates["answered"] > answered + 30, SOON)
        again = now() - began
    report("Envoy restarted", outcome, released=released, served_again=again)
    # Every worker had one request in Envoy; the rest found nobody there.
    assert outcome.fates["broken"] <= 12
    assert outcome.fates["refused"] == 0, outcome.refusals


async def test_while_the_assigner_is_stuck_its_last_assignment_serves_and_an_alert_rises(
    start: Starter,
) -> None:
    stuck = {"placing": {"round_seconds": 3600}}
    async with start(sidecar=QUICK | stuck) as running, load(running) as outcome:
        victim = await under_way(running, outcome)
        before = await loop_age(running, "assigner")
        assignment = (await running.stack.status())["assignment"]["number"]
        await running.fault(victim, kind="crash")
        ejected = await reaches(running, victim, "ejected")
        await asyncio.sleep(1)
        assert await loop_age(running, "assigner") >= before + 1
        assert await loop_age(running, "health") < SOON
        # What is lost moves at once all the same.
        assert (await running.stack.status())["assignment"]["number"] > assignment
    report("assigner stuck, and a replica killed", outcome, ejected=ejected)
    assert outcome.fates["lost"] == outcome.fates["refused"] == 0, outcome.refusals


async def loop_age(running: Running, loop: str) -> float:
    """The alert's metric."""
    name = f'weighbridge_loop_age_seconds{{loop="{loop}"}}'
    return await metric(running, name)


async def metric(running: Running, name: str) -> float:
    """A sample of the sidecar's metrics."""
    url = f"{running.stack.admin_url}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as page:
        lines = (await page.text()).splitlines()
    return float(next(line.rsplit(" ", 1)[1] for line in lines if line.startswith(name)))
