"""Envoy's own errors, in the shape that clients of OpenAI's interface read."""

from envoy_data_plane.envoy.config.accesslog.v3 import (
    AccessLogFilter,
    ExtensionFilter,
    ResponseFlagFilter,
)
from envoy_data_plane.envoy.config.core.v3 import (
    HeaderValue,
    HeaderValueOption,
    SubstitutionFormatString,
)
from envoy_data_plane.envoy.extensions.access_loggers.filters.cel.v3 import ExpressionFilter
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    LocalReplyConfig,
    ResponseMapper,
)
from envoy_data_plane.google.protobuf import Struct

from weighbridge.envoy import repeats
from weighbridge.envoy.pack import pack

# No healthy replica or no cluster, no connection to one, too many requests at once: nothing of the
# request is anywhere, and it may be sent again.
NOT_SENT = ("UH", "NC", "UF", "UO")
# A connection that was cut, a reply that is no HTTP or broke off, too long a silence: replicas had
# the request, and Envoy has repeated it where it could.
SENT = ("UC", "UPE", "UR", "URX", "UT", "SI")
# What the sidecar, a route or a script says is in the right shape already.
OWN_WORDS = (
    "response.code_details.startsWith('weighbridge_')"
    " || response.code_details in ['direct_response', 'lua_response']"
)
# What had come of the last replica's answer. Above 0, the answer had begun: it may have been cut
# off after its headers and before its first output, and such a request is not sent anew.
ANSWER_BYTES = "%UPSTREAM_WIRE_BYTES_RECEIVED%"
ANSWER_BYTES_HEADER = "x-weighbridge-answer-bytes"


def replies() -> LocalReplyConfig:
    """How Envoy says that no replica has answered, or why it refuses a request."""
    return LocalReplyConfig(
        mappers=[
            failure(NOT_SENT),
            failure(
                SENT, status_code=repeats.REFUSED_STATUS, extra={repeats.SHOULD_RETRY: "false"}
            ),
            refusal("response.code < 500", "invalid_request_error"),
            refusal("response.code >= 500", "server_error"),
        ]
    )


def failure(
    flags: tuple[str, ...], status_code: int | None = None, extra: dict[str, str] | None = None
) -> ResponseMapper:
    """A replica's failure, told by the flags of the response."""
    headers = {ANSWER_BYTES_HEADER: ANSWER_BYTES} | (extra or {})
    return ResponseMapper(
        filter=AccessLogFilter(response_flag_filter=ResponseFlagFilter(flags=list(flags))),
        status_code=status_code,
        body_format_override=body("%LOCAL_REPLY_BODY%", "server_error", "replica_failed"),
        headers_to_add=[
            HeaderValueOption(header=HeaderValue(key=key, value=value))
            for key, value in headers.items()
        ],
    )


def refusal(which: str, kind: str) -> ResponseMapper:
    """What Envoy itself refuses: a malformed head, a body too large, a token that is missing."""
    expression = f"{which} && response.code >= 400 && !({OWN_WORDS})"
    return ResponseMapper(
        filter=AccessLogFilter(
            extension_filter=ExtensionFilter(
                name="envoy.access_loggers.extension_filters.cel",
                typed_config=pack(ExpressionFilter(expression=expression)),
            )
        ),
        body_format_override=body(
            "the gateway refuses this request (%RESPONSE_CODE_DETAILS%) %LOCAL_REPLY_BODY%",
            kind,
            "gateway_refused",
        ),
    )


def body(message: str, kind: str, code: str) -> SubstitutionFormatString:
    """An error's body."""
    error = {"message": message, "type": kind, "param": None, "code": code}
    return SubstitutionFormatString(
        json_format=Struct.from_dict({"error": error}), content_type="application/json"
    )
