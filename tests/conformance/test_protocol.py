"""The endpoint picker's side of the protocol, over raw gRPC.

Clauses are headings of the Gateway API inference extension's proposal 004, version 1.0.0.
"""

import json
from typing import Any

import grpc.aio
import pytest
from envoy_data_plane.envoy.service.ext_proc.v3 import CommonResponseResponseStatus
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.conformance.conftest import MODEL, REPLICAS, Picker
from tests.conformance.exchange import Exchange, chosen, exchange, refused, set_header
from tests.e2e.harness import until
from weighbridge.config.file import Config
from weighbridge.envoy.names import DESTINATION, EXT_PROC_SERVICE

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHUNK_LIMIT = 64 << 10


def chat(text: str = "hello") -> bytes:
    content = {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 8}
    return json.dumps(content).encode()


async def finish(stream: Exchange, size: int) -> None:
    """Takes the request's body back and lets a response pass."""
    await stream.body_back(size)
    await stream.response_headers()
    assert (await stream.reply()).response_headers is not None


async def test_header_and_metadata_name_the_same_endpoint(picker: Picker) -> None:
    """Destination Endpoint: the header and `envoy.lb` metadata; "MUST not set two different"."""
    async with exchange(picker.address) as stream:
        await stream.request_headers()
        await stream.request_body(chat())
        choice = await stream.choice()
        assert choice.header == choice.metadata
        assert choice.endpoints[0] in REPLICAS
        await finish(stream, len(chat()))


async def test_fallbacks_are_an_ordered_list_of_other_endpoints(picker: Picker) -> None:
    """Destination Endpoint: "`<ip:port>,<ip:port>,...`", multiple separated by commas."""
    async with exchange(picker.address) as stream:
        await stream.request_headers()
        await stream.request_body(chat())
        choice = await stream.choice()
        assert len(choice.endpoints) == 3, "two fallbacks are the default"
        assert len(set(choice.endpoints)) == 3
        assert set(choice.endpoints) <= set(REPLICAS)


async def test_a_destination_that_the_client_named_is_replaced(picker: Picker) -> None:
    """Destination Endpoint: the picker sets the header; a client's value must not survive."""
    async with exchange(picker.address) as stream:
        await stream.request_headers(headers={DESTINATION: "198.51.100.1:1"})
        await stream.request_body(chat())
        reply = await stream.reply()
        assert "198.51.100.1:1" not in chosen(reply).header
        assert reply.request_headers is not None
        mutation = reply.request_headers.response
        assert mutation is not None
        # OVERWRITE_IF_EXISTS_OR_ADD: nothing is appended to what was there.
        assert mutation.header_mutation is not None
        actions = [int(one.append_action) for one in mutation.header_mutation.set_headers]
        assert set(actions) == {2}
        assert set_header(mutation, DESTINATION) == chosen(reply).header


async def test_without_a_hint_every_endpoint_may_be_chosen(picker: Picker) -> None:
    """Endpoint Subset: "not set, then the EPP MUST select from the set" of the pool."""
    seen = set()
    for session in range(40):
        async with exchange(picker.address) as stream:
            await stream.request_headers(headers={"x-session-id": f"session {session}"})
            await stream.request_body(chat(f"subject {session}"))
            seen.add((await stream.choice()).endpoints[0])
    assert seen == set(REPLICAS)


@pytest.mark.parametrize(
    "subset",
    [
        [REPLICAS[1]],
        [REPLICAS[1], "203.0.113.9:1"],
        REPLICAS[1],
        f"{REPLICAS[1]}, 203.0.113.9:1",
        [f"203.0.113.9:1,{REPLICAS[1]}"],
    ],
    ids=["list", "list with a stranger", "text", "text with commas", "commas within a list"],
)
async def test_only_endpoints_of_the_hint_are_named(
    picker: Picker, subset: list[str] | str
) -> None:
    """Endpoint Subset: "the EPP MUST only select endpoints from the specified list"."""
    for session in range(4):
        async with exchange(picker.address) as stream:
            await stream.request_headers(
                subset=subset, headers={"x-session-id": f"session {session}"}
            )
            await stream.request_body(chat())
            # Fallbacks are selected endpoints too.
            assert (await stream.choice()).endpoints == [REPLICAS[1]]


async def test_fallbacks_stay_within_the_hint(picker: Picker) -> None:
    """Endpoint Subset, with fallbacks: the whole list comes from the specified one."""
    allowed = REPLICAS[2:]
    async with exchange(picker.address) as stream:
        await stream.request_headers(subset=allowed)
        await stream.request_body(chat())
        assert sorted((await stream.choice()).endpoints) == sorted(allowed)


@pytest.mark.parametrize("subset", [[], ["203.0.113.9:1"], ""], ids=["empty", "none", "no text"])
async def test_a_hint_without_an_eligible_endpoint_is_503(
    picker: Picker, subset: list[str] | str
) -> None:
    """Endpoint Subset: "none of the endpoints in the list is eligible or the list is empty"."""
    async with exchange(picker.address) as stream:
        await stream.request_headers(subset=subset)
        await stream.request_body(chat())
        status, error = refused(await stream.reply())
        assert status == 503
        assert error["type"] == "service_unavailable"


async def test_the_endpoint_that_served_is_charged(picker: Picker) -> None:
    """Destination Endpoint Served: a retry may have moved on to the next of the list."""
    async with exchange(picker.address) as stream:
        await stream.request_headers()
        await stream.request_body(chat())
        first, second, _ = (await stream.choice()).endpoints
        await stream.body_back(len(chat()))
        assert await picker.in_flight() == {first: 1}
        await stream.response_headers(served=second)
        assert (await stream.reply()).response_headers is not None
        assert await picker.in_flight() == {second: 1}
    await picker.settled()


async def test_the_chosen_endpoint_stays_charged_where_it_served(picker: Picker) -> None:
    """Destination Endpoint Served: the first of the list, in the usual case."""
    async with exchange(picker.address) as stream:
        await stream.request_headers()
        await stream.request_body(chat())
        first = (await stream.choice()).endpoints[0]
        await stream.body_back(len(chat()))
        await stream.response_headers(served=first)
        await stream.reply()
        assert await picker.in_flight() == {first: 1}
    await picker.settled()


@pytest.mark.parametrize("served", ["203.0.113.9:1", "nonsense"])
async def test_a_served_endpoint_that_is_unknown_harms_nothing(picker: Picker, served: str) -> None:
    """Destination Endpoint Served: a replica that has left meanwhile is no error."""
    async with exchange(picker.address) as stream:
        await stream.request_headers()
        await stream.request_body(chat())
        await stream.choice()
        await stream.body_back(len(chat()))
        await stream.response_headers(served=served)
        assert (await stream.reply()).response_headers is not None
    await picker.settled()


async def test_a_body_comes_back_whole_in_chunks_that_envoy_takes(picker: Picker) -> None:
    """Streaming mode (FULL_DUPLEX_STREAMED): every byte back, at most 64 KiB in a chunk."""
    body = chat("much to say " * 40_000)
    async with exchange(picker.address) as stream:
        await stream.request_headers()
        for start in range(0, len(body), 50_000):
            chunk = body[start : start + 50_000]
            await stream.request_body(chunk, end_of_stream=start + 50_000 >= len(body))
        await stream.choice()
        back, sizes = await stream.body_back(len(body))
        assert back == body
        assert max(sizes) <= CHUNK_LIMIT


async def test_trailers_end_a_body_which_goes_on_as_one_with_the_headers(picker: Picker) -> None:
    """Streaming mode (FULL_DUPLEX_STREAMED): trailers instead of `end_of_stream`.

    Envoy would send on twice what is given back in chunks: its router keeps them for retries.
    """
    async with exchange(picker.address) as stream:
        await stream.request_headers()
        await stream.request_body(chat(), end_of_stream=False)
        await stream.request_trailers()
        reply = await stream.reply()
        chosen(reply)
        assert reply.request_headers is not None
        common = reply.request_headers.response
        assert common is not None
        assert common.status is CommonResponseResponseStatus.CONTINUE_AND_REPLACE
        assert common.body_mutation is not None
        assert common.body_mutation.body == chat()


async def test_a_response_passes_token_by_token(picker: Picker) -> None:
    """Streaming mode: "real-time token-by-token response delivery"; bodies and trailers pass."""
    async with exchange(picker.address) as stream:
        await stream.request_headers()
        await stream.request_body(chat())
        await stream.choice()
        await finish(stream, len(chat()))
        for number in range(3):
            event = f"data: {number}\n\n".encode()
            await stream.response_body(event, end_of_stream=False)
            # Each comes back before the next is sent.
            assert await stream.body_back(len(event), "response_body") == (event, [len(event)])
        await stream.response_trailers()
        assert (await stream.reply()).response_trailers is not None


async def test_a_request_without_a_body_passes_unsteered(picker: Picker) -> None:
    """Streaming mode: headers with `end_of_stream`; by default only inference is steered."""
    async with exchange(picker.address) as stream:
        await stream.request_headers(method="GET", path="/v1/models", end_of_stream=True)
        reply = await stream.reply()
        assert reply.request_headers is not None
        assert reply.dynamic_metadata is None
        assert await picker.in_flight() == {}


async def test_traffic_that_is_no_inference_is_untouched(picker: Picker) -> None:
    """Streaming mode: another path's body comes back byte by byte, with nothing charged."""
    body = b"\x00\xffno json" * 20_000
    async with exchange(picker.address) as stream:
        await stream.request_headers(path="/upload")
        reply = await stream.reply()
        assert reply.request_headers is not None
        assert reply.request_headers.response is None
        assert reply.dynamic_metadata is None
        await stream.request_body(body)
        back, sizes = await stream.body_back(len(body))
        assert back == body
        assert max(sizes) <= CHUNK_LIMIT
        assert await picker.in_flight() == {}


async def test_an_inference_request_without_a_body_is_refused(picker: Picker) -> None:
    """Destination Endpoint: without a choice the picker "MUST return an error"."""
    async with exchange(picker.address) as stream:
        await stream.request_headers(end_of_stream=True)
        status, error = refused(await stream.reply())
        assert (status, error["code"]) == (400, "empty_body")


@pytest.mark.parametrize("service", ["liveness", "readiness", EXT_PROC_SERVICE])
async def test_health_services_answer(picker: Picker, service: str) -> None:
    """Health Check Services: liveness, readiness and the external processor's, all SERVING."""
    assert await health(picker, service) == health_pb2.HealthCheckResponse.SERVING


async def test_the_default_port_is_9002() -> None:
    """InferencePool's `endpointPickerRef.port` is 9002 where it is left out."""
    assert Config().listen.address.rpartition(":")[2] == "9002"


async def health(picker: Picker, service: str) -> int:
    async with grpc.aio.insecure_channel(picker.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
        return int(answer.status)


async def test_a_stream_that_is_cut_off_leaves_nothing_charged(picker: Picker) -> None:
    """Destination Endpoint Served: with no response there is nobody left to charge."""
    async with grpc.aio.insecure_channel(picker.address) as channel:
        method: Any = channel.stream_stream(
            f"/{EXT_PROC_SERVICE}/Process", request_serializer=None, response_deserializer=None
        )
        call = method()
        stream = Exchange(call)
        await stream.request_headers()
        await stream.request_body(chat())
        await stream.choice()

        async def is_charged() -> bool:
            return sum((await picker.in_flight()).values()) == 1

        await until(is_charged)
        call.cancel()
    await picker.settled()
