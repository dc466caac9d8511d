"""Envoy's own errors about replicas, in the shape that clients of OpenAI's interface read."""

from envoy_data_plane.envoy.config.accesslog.v3 import AccessLogFilter, ResponseFlagFilter
from envoy_data_plane.envoy.config.core.v3 import (
    HeaderValue,
    HeaderValueOption,
    SubstitutionFormatString,
)
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    LocalReplyConfig,
    ResponseMapper,
)
from envoy_data_plane.google.protobuf import Struct

# No healthy replica or no cluster; a connection that failed or was cut, a reply that is no HTTP or
# broke off, too many at once; retries used up; too long a silence. Never the sidecar's refusals.
FLAGS = ("UH", "NC", "UF", "UC", "UPE", "UR", "UO", "URX", "UT", "SI")
BODY = {
    "error": {
        "message": "%LOCAL_REPLY_BODY%",
        "type": "server_error",
        "param": None,
        "code": "replica_failed",
    }
}
# What had come of the last replica's answer. Above 0, the answer had begun: it may have been cut
# off after its headers and before its first output, and such a request is not sent anew.
ANSWER_BYTES = "%UPSTREAM_WIRE_BYTES_RECEIVED%"
ANSWER_BYTES_HEADER = "x-weighbridge-answer-bytes"


def replies() -> LocalReplyConfig:
    """How Envoy says that no replica has answered."""
    return LocalReplyConfig(
        mappers=[
            ResponseMapper(
                filter=AccessLogFilter(response_flag_filter=ResponseFlagFilter(flags=list(FLAGS))),
                body_format_override=SubstitutionFormatString(
                    json_format=Struct.from_dict(BODY), content_type="application/json"
                ),
                headers_to_add=[
                    HeaderValueOption(
                        header=HeaderValue(key=ANSWER_BYTES_HEADER, value=ANSWER_BYTES)
                    )
                ],
            )
        ]
    )
