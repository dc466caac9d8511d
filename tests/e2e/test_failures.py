"""Failures under load: nothing is lost that had not begun, what stays well stays where it was."""

import asyncio
import signal

from tests.e2e.harness import Reply, Running, Starter, until


async def load(
    running: Running, stop: asyncio.Event, workers: int = 8, output_tokens: int = 8
) -> list[Reply]:
    """Requests without pause until told to stop."""
    replies: list[Reply] = []
    headers = {"x-emulate-output-tokens": str(output_tokens)}

    async def work(worker: int) -> None:
        number = 0
        while not stop.is_set():
            body = running.chat(f"worker {worker} asks {number}", max_tokens=output_tokens)
            replies.append(await running.post(body, headers))
            number += 1

    async with asyncio.TaskGroup() as group:
        for worker in range(workers):
            group.create_task(work(worker))
    return replies


async def test_a_sidecar_that_is_killed_loses_no_request_and_is_used_again(
    running: Running,
) -> None:
    stop = asyncio.Event()
    loading = asyncio.create_task(load(running, stop))
    await until(lambda: decided(running))
    running.family.running("serve").signal(signal.SIGKILL)
    await asyncio.sleep(1)
    await running.stack.start_sidecar()
    # The new process counts from nothing: a decision shows that Envoy asks it again.
    await until(lambda: decided(running))
    stop.set()
    replies = await loading
    assert len(replies) > 20
    assert {reply.status for reply in replies} == {200}


async def decided(running: Running) -> bool:
    return len(await running.stack.decisions()) > 10


async def test_sessions_of_a_killed_replica_move_and_no_others(running: Running) -> None:
    async def ask(session: int) -> Reply:
        return await running.post(running.chat(f"subject {session} at length"))

    sessions = range(30)
    before = {session: (await ask(session)).replica for session in sessions}
    victim = before[0]
    await running.fault(running.stack.endpoints.index(victim), kind="crash")

    # At once, while nobody knows of it yet, and again when it has been ejected.
    at_once = {session: await ask(session) for session in sessions}

    async def is_ejected() -> bool:
        status = await running.stack.status()
        states = {one["endpoint"]: one["state"] for one in status["replicas"]}
        return bool(states[victim] == "ejected")

    await until(is_ejected)
    later = {session: await ask(session) for session in sessions}
    for replies in (at_once, later):
        for session, reply in replies.items():
            assert reply.status == 200
            assert reply.replica != victim
            if before[session] != victim:
                assert reply.replica == before[session]


async def test_a_replica_killed_under_load_loses_no_request_that_had_not_begun(
    start: Starter,
) -> None:
    # Slow enough that every replica works on several answers, none begun, when one is killed.
    async with start(speed=4.0) as running:
        stop = asyncio.Event()
        loading = asyncio.create_task(load(running, stop, workers=24, output_tokens=200))
        await until(lambda: decided(running))
        await running.fault(0, kind="restart", down_ms=500)
        await asyncio.sleep(1)
        stop.set()
        replies = await loading
        assert {reply.status for reply in replies} == {200}


async def test_a_client_that_goes_away_in_mid_stream_leaves_nothing_charged(
    start: Starter,
) -> None:
    async with start(speed=1.0) as running:
        body = running.chat("a long story", stream=True, max_tokens=2000)
        headers = {"x-emulate-output-tokens": "2000"}
        async with running.client.post(
            "/v1/chat/completions", json=body, headers=headers
        ) as response:
            assert response.status == 200
            await response.content.readany()
            status = await running.stack.status()
            assert sum(one["requests"] for one in status["replicas"]) == 1
            response.close()
        await running.settled()


async def test_a_replica_that_dies_in_mid_stream_leaves_nothing_charged(start: Starter) -> None:
    async with start(speed=1.0) as running:
        body = running.chat("a long story", stream=True, max_tokens=2000)
        headers = {"x-emulate-output-tokens": "2000"}
        async with running.client.post(
            "/v1/chat/completions", json=body, headers=headers
        ) as response:
            await response.content.readany()
            served_by = response.headers["x-served-by"]
            await running.fault(running.stack.endpoints.index(served_by), kind="crash")
            await running.settled()


async def test_what_a_dead_replica_did_not_take_goes_to_the_next_that_was_named(
    running: Running,
) -> None:
    # Large enough that a retry must repeat more than a connection's buffer holds.
    prompt = "word " * 600_000
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{prompt}"}}
    for body in (
        running.chat("small"),
        running.chat(messages=[{"role": "user", "content": [image]}]),
    ):
        victim = (await running.post(body)).replica
        await running.fault(running.stack.endpoints.index(victim), kind="crash")
        reply = await running.post(body)
        decision = await running.decision_of(reply)
        assert decision["replica"] == victim
        assert reply.replica == decision["fallbacks"][0]
        assert reply.status < 500
        await running.fault(running.stack.endpoints.index(victim), kind="heal")


async def test_a_sidecar_that_hangs_holds_no_request_for_long(running: Running) -> None:
    serve = running.family.running("serve")
    serve.signal(signal.SIGSTOP)
    try:
        replies = await asyncio.gather(*(running.post(running.chat(f"{n}")) for n in range(5)))
        assert [reply.status for reply in replies] == [200] * 5
    finally:
        serve.signal(signal.SIGCONT)
    before = len(await running.stack.decisions())

    async def is_asked_again() -> bool:
        assert (await running.post(running.chat())).status == 200
        return len(await running.stack.decisions()) > before

    await until(is_asked_again)
