"""Routing through a real Envoy: who is chosen serves, sessions stick, bodies of all sizes pass."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator

import pytest

from tests.e2e.harness import Reply, Running, Starter

LARGE = 3_000_000


async def test_the_chosen_host_is_the_host_that_served(running: Running) -> None:
    replies = await asyncio.gather(*(running.post(running.chat(f"topic {n}")) for n in range(40)))
    for reply in replies:
        assert reply.status == 200
        assert (await running.decision_of(reply))["replica"] == reply.replica
    assert len({reply.replica for reply in replies}) >= 4


async def test_a_client_cannot_steer(running: Running) -> None:
    for endpoint in running.stack.endpoints:
        reply = await running.post(
            running.chat("steer"), headers={"x-gateway-destination-endpoint": endpoint}
        )
        assert (await running.decision_of(reply))["replica"] == reply.replica
    # All are one session, whatever replica they asked for.
    assert len({one["replica"] for one in await running.stack.decisions()}) == 1


async def test_turns_of_a_chat_go_to_one_replica_without_any_header(running: Running) -> None:
    for session in range(8):
        messages = [
            {"role": "system", "content": "You answer in verse."},
            {"role": "user", "content": f"Tell me of subject {session}."},
        ]
        replicas = set()
        for turn in range(4):
            reply = await running.post(running.chat(messages=messages))
            answer = json.loads(reply.body)["choices"][0]["message"]
            messages += [answer, {"role": "user", "content": f"And then, {turn}?"}]
            replicas.add(reply.replica)
        assert len(replicas) == 1


async def test_a_session_header_holds_different_prompts_together(running: Running) -> None:
    replicas = {
        (await running.post(running.chat(f"prompt {n}"), headers={"x-session-id": "s"})).replica
        for n in range(8)
    }
    assert len(replicas) == 1


async def test_a_body_of_three_megabytes_passes_whole(running: Running) -> None:
    image = base64.b64encode(PNG + b"\0" * (LARGE * 3 // 4)).decode()
    content = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}},
    ]
    body = json.dumps(running.chat(messages=[{"role": "user", "content": content}])).encode()
    assert len(body) > LARGE
    reply = await running.post(body)
    assert reply.status == 200, reply.body
    assert (await running.decision_of(reply))["replica"] == reply.replica


async def test_a_chunked_body_is_weighed_like_any_other(running: Running) -> None:
    body = json.dumps(running.chat("chunked")).encode()

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 7):
            yield body[start : start + 7]
            await asyncio.sleep(0)

    chunked = await running.post(chunks())
    whole = await running.post(body)
    assert chunked.status == whole.status == 200
    assert chunked.replica == whole.replica
    decisions = [await running.decision_of(reply) for reply in (chunked, whole)]
    assert decisions[0]["prompt_tokens"] == decisions[1]["prompt_tokens"]


async def test_a_stream_comes_through_to_its_end(running: Running) -> None:
    reply = await running.post(running.chat("stream", stream=True))
    assert reply.status == 200
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.body.rstrip().endswith(b"data: [DONE]")


async def test_what_is_no_inference_never_reaches_a_replica(running: Running) -> None:
    for path in ("/update_weights", "/release_memory", "/v1/../update_weights", "/metrics"):
        reply = await running.post(b"{}", path=path)
        assert reply.status == 404
        assert json.loads(reply.body)["error"]["code"] == "route_not_found"
        assert reply.replica == ""
    async with running.client.get("/v1/models") as response:
        assert response.status == 200
        assert running.stack.model in await response.text()


@pytest.mark.parametrize("mode", ["none", "full_duplex_streamed"])
async def test_every_other_body_mode_routes_as_well(start: Starter, mode: str) -> None:
    async with start(body_mode=mode) as running:
        replies = [await running.post(running.chat(f"topic {n}" * 50)) for n in range(6)]
        for reply in replies:
            assert reply.status == 200, reply.body
            assert (await running.decision_of(reply))["replica"] == reply.replica


PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


async def test_a_conversation_by_response_ids_stays_with_the_replica_that_knows_them(
    running: Running,
) -> None:
    path = "/v1/responses"
    for session in range(6):
        replicas = set()
        previous: dict[str, str] = {}
        for turn in range(4):
            body = {"model": running.stack.model, "input": f"Part {turn} of {session}."}
            stream = {"stream": turn % 2 == 1}
            reply = await running.post(body | stream | previous, path=path)
            assert reply.status == 200, reply.body
            replicas.add(reply.replica)
            previous = {"previous_response_id": response_id(reply)}
        assert len(replicas) == 1
        name = previous["previous_response_id"]
        async with running.client.get(f"{path}/{name}") as kept:
            assert kept.status == 200, await kept.text()


async def test_a_response_that_the_sidecar_never_saw_is_found_among_the_replicas(
    running: Running,
) -> None:
    path = "/v1/responses"
    body = {"model": running.stack.model, "input": "Said to a replica itself."}
    for keeper in running.stack.endpoints:
        async with running.client.post(f"http://{keeper}{path}", json=body) as given:
            keeps = given.headers["x-served-by"]
            name = response_id(Reply(given.status, {}, await given.read()))
        async with running.client.get(f"{path}/{name}") as kept:
            assert kept.status == 200, await kept.text()
        for stream in (False, True):
            reply = await running.post(
                body | {"stream": stream, "previous_response_id": name}, path=path
            )
            assert reply.status == 200, reply.body
            assert reply.replica == keeps
    reply = await running.post(body | {"previous_response_id": "resp_nobody"}, path=path)
    assert reply.status == 404, reply.body


def response_id(reply: Reply) -> str:
    """The id of a response, whole or in events."""
    text = reply.body.decode()
    if text.startswith("{"):
        return str(json.loads(text)["id"])
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    return str(events[0]["response"]["id"])
