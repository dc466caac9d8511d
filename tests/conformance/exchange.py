"""A gateway's side of the endpoint picker protocol, message by message over gRPC."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc.aio
from envoy_data_plane.envoy.config.core.v3 import HeaderMap, HeaderValue, Metadata
from envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 import ProcessingModeBodySendMode
from envoy_data_plane.envoy.service.ext_proc.v3 import (
    CommonResponse,
    HttpBody,
    HttpHeaders,
    HttpTrailers,
    ProcessingRequest,
    ProcessingResponse,
    ProtocolConfiguration,
)
from envoy_data_plane.google.protobuf import ListValue, Struct, Value

from weighbridge.envoy.names import DESTINATION, EXT_PROC_SERVICE, SERVED

SUBSET_NAMESPACE = "envoy.lb.subset_hint"
SUBSET_KEY = "x-gateway-destination-endpoint-subset"
REPLY_SECONDS = 10.0
DUPLEX = ProcessingModeBodySendMode.FULL_DUPLEX_STREAMED


@dataclass(frozen=True)
class Choice:
    """What a picker said of a request: in the header and in the metadata."""

    header: str
    metadata: str

    @property
    def endpoints(self) -> list[str]:
        """In the order of retries."""
        return self.header.split(",")


class Exchange:
    """One HTTP request, as a gateway in FULL_DUPLEX_STREAMED tells of it."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def request_headers(
        self,
        method: str = "POST",
        path: str = "/v1/chat/completions",
        end_of_stream: bool = False,
        subset: Sequence[str] | str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """The first message; a `subset` of None leaves the key out."""
        given = {":method": method, ":path": path, ":authority": "gateway"}
        if not end_of_stream:
            given["content-type"] = "application/json"
        given |= headers or {}
        await self._send(
            ProcessingRequest(
                request_headers=HttpHeaders(headers=header_map(given), end_of_stream=end_of_stream),
                metadata_context=None if subset is None else subset_hint(subset),
                protocol_config=ProtocolConfiguration(
                    request_body_mode=DUPLEX, response_body_mode=DUPLEX
                ),
            )
        )

    async def request_body(self, body: bytes, end_of_stream: bool = True) -> None:
        """A chunk of the request's body."""
        await self._send(
            ProcessingRequest(request_body=HttpBody(body=body, end_of_stream=end_of_stream))
        )

    async def request_trailers(self) -> None:
        """The request's trailers."""
        await self._send(ProcessingRequest(request_trailers=HttpTrailers()))

    async def response_headers(self, status: int = 200, served: str | None = None) -> None:
        """The response's headers, with the endpoint that served it."""
        metadata = None
        if served is not None:
            metadata = Metadata(filter_metadata={"envoy.lb": Struct.from_dict({SERVED: served})})
        await self._send(
            ProcessingRequest(
                response_headers=HttpHeaders(headers=header_map({":status": str(status)})),
                metadata_context=metadata,
            )
        )

    async def response_body(self, body: bytes, end_of_stream: bool = True) -> None:
        """A chunk of the response's body."""
        await self._send(
            ProcessingRequest(response_body=HttpBody(body=body, end_of_stream=end_of_stream))
        )

    async def response_trailers(self) -> None:
        """The response's trailers."""
        await self._send(ProcessingRequest(response_trailers=HttpTrailers()))

    async def reply(self) -> ProcessingResponse:
        """The picker's next message."""
        data = await asyncio.wait_for(self._call.read(), REPLY_SECONDS)
        assert isinstance(data, bytes), "the picker ended the stream"
        return ProcessingResponse.parse(data)

    async def choice(self) -> Choice:
        """The picker's next message, which must answer the headers and name endpoints."""
        return chosen(await self.reply())

    async def body_back(self, size: int, side: str = "request_body") -> tuple[bytes, list[int]]:
        """The body as the picker sends it back, `size` bytes in all, and its chunks' sizes."""
        body, sizes, last = b"", [], False
        while len(body) < size or not last:
            answer = getattr(await self.reply(), side)
            chunk = answer.response.body_mutation.streamed_response
            body += chunk.body
            sizes.append(len(chunk.body))
            last = chunk.end_of_stream or (len(body) >= size)
        return body, sizes

    async def _send(self, message: ProcessingRequest) -> None:
        await self._call.write(bytes(message))


def chosen(reply: ProcessingResponse) -> Choice:
    """The endpoints that an answer to request headers names."""
    assert reply.immediate_response is None, reply.immediate_response
    assert reply.request_headers is not None
    assert reply.request_headers.response is not None
    assert reply.dynamic_metadata is not None
    namespace = reply.dynamic_metadata.fields["envoy.lb"].struct_value
    assert namespace is not None
    return Choice(
        header=set_header(reply.request_headers.response, DESTINATION),
        metadata=namespace.fields[DESTINATION].string_value or "",
    )


def refused(reply: ProcessingResponse) -> tuple[int, dict[str, Any]]:
    """Status and error of an immediate response."""
    answer = reply.immediate_response
    assert answer is not None, reply
    assert answer.status is not None
    error: dict[str, Any] = json.loads(answer.body)["error"]
    return int(answer.status.code), error


def set_header(response: CommonResponse, name: str) -> str:
    """The value that a response sets a header to, exactly once."""
    mutation = response.header_mutation
    assert mutation is not None
    values = [
        option.header.raw_value.decode()
        for option in mutation.set_headers
        if option.header is not None and option.header.key == name
    ]
    assert len(values) == 1
    return values[0]


def header_map(headers: dict[str, str]) -> HeaderMap:
    """Headers as Envoy sends them."""
    return HeaderMap(
        headers=[HeaderValue(key=key, raw_value=value.encode()) for key, value in headers.items()]
    )


def subset_hint(subset: Sequence[str] | str) -> Metadata:
    """The endpoints that the picker may choose: a list, or one text with commas."""
    if isinstance(subset, str):
        value = Value(string_value=subset)
    else:
        value = Value(list_value=ListValue(values=[Value(string_value=one) for one in subset]))
    return Metadata(filter_metadata={SUBSET_NAMESPACE: Struct(fields={SUBSET_KEY: value})})


@asynccontextmanager
async def exchange(address: str) -> AsyncIterator[Exchange]:
    """Opens a stream to the picker, and ends it as a gateway does at the end of the request."""
    async with grpc.aio.insecure_channel(address) as channel:
        method: Any = channel.stream_stream(
            f"/{EXT_PROC_SERVICE}/Process", request_serializer=None, response_deserializer=None
        )
        call = method()
        yield Exchange(call)
        await call.done_writing()
