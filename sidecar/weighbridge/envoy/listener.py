"""Envoy's listener: what clients reach, the filters on the way, the routes and their retries."""

from envoy_data_plane.envoy.config.accesslog.v3 import AccessLog
from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutationRules
from envoy_data_plane.envoy.config.core.v3 import (
    DataSource,
    GrpcService,
    GrpcServiceEnvoyGrpc,
    HeaderValue,
    HeaderValueOption,
    Http2ProtocolOptions,
    HttpProtocolOptions,
    RuntimeFractionalPercent,
    SubstitutionFormatString,
)
from envoy_data_plane.envoy.config.listener.v3 import Filter, FilterChain, Listener
from envoy_data_plane.envoy.config.route.v3 import (
    DirectResponseAction,
    HeaderMatcher,
    RetryPolicy,
    Route,
    RouteAction,
    RouteConfiguration,
    RouteMatch,
    VirtualHost,
)
from envoy_data_plane.envoy.config.trace.v3 import OpenTelemetryConfig, TracingHttp
from envoy_data_plane.envoy.extensions.access_loggers.file.v3 import FileAccessLog
from envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 import (
    ExternalProcessor,
    ExtProcOverrides,
    ExtProcPerRoute,
    MetadataOptions,
    MetadataOptionsMetadataNamespaces,
    ProcessingMode,
    ProcessingModeBodySendMode,
    ProcessingModeHeaderSendMode,
)
from envoy_data_plane.envoy.extensions.filters.http.header_mutation.v3 import HeaderMutation
from envoy_data_plane.envoy.extensions.filters.http.jwt_authn.v3 import JwtAuthentication
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpConnectionManagerCodecType,
    HttpConnectionManagerPathWithEscapedSlashesAction,
    HttpConnectionManagerTracing,
    HttpFilter,
)
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatcher
from envoy_data_plane.envoy.type.v3 import FractionalPercent, Int64Range, Percent
from envoy_data_plane.google.protobuf import Any as PackedMessage
from envoy_data_plane.google.protobuf import Struct

from weighbridge.address import parse_host_port
from weighbridge.config.claims import TenantClaim
from weighbridge.config.envoy import BodyMode, EnvoySettings
from weighbridge.config.file import Config
from weighbridge.config.records import Tracing
from weighbridge.envoy import cors, failures, identity, names, repeats
from weighbridge.envoy.pack import address, pack, seconds

EXT_PROC_FILTER = "envoy.filters.http.ext_proc"
METERING_FILTER = "envoy.filters.http.ext_proc/metering"
# What the sidecar may set: on a request its choice, and that a 404 be asked of the next replica
# when nobody knows who keeps a response; on an answer of its own what says why.
# Up to 1.38 Envoy refuses a regex that compiles to more than 100 instructions.
SIDECAR_HEADERS = "x-(gateway|ratelimit|weighbridge|envoy-(max|retri)).*|content-type|retry-after"
# The longest that the sidecar may ask for when it holds a request back, s.
MAX_MESSAGE_TIMEOUT = 120
# Until a request's headers are all there, s: a client that trickles them holds nothing for long.
HEADERS_TIMEOUT = 30
# Until a request is all there and has been admitted, s: an unfinished body holds memory.
REQUEST_TIMEOUT = MAX_MESSAGE_TIMEOUT + 180
# Streams of one HTTP/2 connection, and what Envoy takes of bodies before it has passed them on,
# bytes: of one stream, and of all streams of a connection.
STREAMS = 1024
STREAM_WINDOW = 1 << 20
CONNECTION_WINDOW = 16 << 20
# Silence on a request, s: a queued prompt may stay silent for long before its first token.
IDLE_TIMEOUT = 1800

BODY_MODES: dict[BodyMode, ProcessingModeBodySendMode] = {
    "none": ProcessingModeBodySendMode.NONE,
    "buffered": ProcessingModeBodySendMode.BUFFERED,
    "full_duplex_streamed": ProcessingModeBodySendMode.FULL_DUPLEX_STREAMED,
}


def listener(config: Config) -> Listener:
    """The listener that clients reach."""
    return Listener(
        name="clients",
        address=address(parse_host_port(config.envoy.listen)),
        filter_chains=[
            FilterChain(
                filters=[
                    Filter(
                        name="envoy.filters.network.http_connection_manager",
                        typed_config=pack(connection_manager(config)),
                    )
                ]
            )
        ],
    )


def connection_manager(config: Config) -> HttpConnectionManager:
    """HTTP/1.1 and HTTP/2 from clients, hardened as for an edge, and the filters."""
    settings = config.envoy
    return HttpConnectionManager(
        stat_prefix="clients",
        codec_type=HttpConnectionManagerCodecType.AUTO,
        use_remote_address=True,
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action=(
            HttpConnectionManagerPathWithEscapedSlashesAction.REJECT_REQUEST
        ),
        common_http_protocol_options=HttpProtocolOptions(
            idle_timeout=seconds(3600),
        ),
        http2_protocol_options=Http2ProtocolOptions(
            max_concurrent_streams=STREAMS,
            initial_stream_window_size=STREAM_WINDOW,
            initial_connection_window_size=CONNECTION_WINDOW,
        ),
        stream_idle_timeout=seconds(IDLE_TIMEOUT),
        request_timeout=seconds(REQUEST_TIMEOUT),
        request_headers_timeout=seconds(HEADERS_TIMEOUT),
        # Lets a client's log and the sidecar's decisions be joined.
        always_set_request_id_in_response=True,
        access_log=access_logs(settings.access_log),
        tracing=tracer(config.tracing),
        local_reply_config=failures.replies(),
        route_config=RouteConfiguration(
            name="routes",
            virtual_hosts=[virtual_host(config)],
            # The replicas' cluster comes later where it comes over ADS.
            validate_clusters=None if config.discovery.ads.address is None else False,
        ),
        http_filters=[
            *cors.filters(settings.cors),
            http_filter("envoy.filters.http.header_mutation", identity.strip(config)),
            *verifications(config.tenant_claim),
            *sidecar_filters(settings, config.tenant_claim),
            http_filter("envoy.filters.http.router", Router()),
        ],
    )


def tracer(config: Tracing) -> HttpConnectionManagerTracing | None:
    """Envoy's own tracer, beside the sidecar's."""
    if config.collector is None or not config.envoy:
        return None
    collector = GrpcServiceEnvoyGrpc(cluster_name=names.COLLECTOR_CLUSTER)
    return HttpConnectionManagerTracing(
        random_sampling=Percent(value=config.sampled_percent),
        # A span for what goes to a replica, too, and the replica is told of it.
        spawn_upstream_span=True,
        provider=TracingHttp(
            name="envoy.tracers.opentelemetry",
            typed_config=pack(
                OpenTelemetryConfig(
                    grpc_service=GrpcService(
                        envoy_grpc=collector, timeout=seconds(config.timeout_seconds)
                    ),
                    service_name=config.envoy_service_name,
                )
            ),
        ),
    )


Message = HeaderMutation | JwtAuthentication | ExternalProcessor | Router


def http_filter(name: str, message: Message) -> HttpFilter:
    """One HTTP filter."""
    return HttpFilter(name=name, typed_config=pack(message))


def asked() -> GrpcService:
    """The sidecar: of several the same one for all that concerns a request."""
    return GrpcService(
        envoy_grpc=GrpcServiceEnvoyGrpc(
            cluster_name=names.SIDECAR_CLUSTER, authority=names.SIDECAR_AUTHORITY
        ),
        initial_metadata=[HeaderValue(key=names.STREAM, value=names.STREAM_VALUE)],
    )


def verifications(claim: TenantClaim | None) -> list[HttpFilter]:
    """The filter that verifies tokens, where they say who the tenant is."""
    if claim is None or claim.jwt is None:
        return []
    return [http_filter(identity.JWT_FILTER, identity.verification(claim, claim.jwt))]


def ext_proc(settings: EnvoySettings, claim: TenantClaim | None = None) -> ExternalProcessor:
    """Asks the sidecar; goes on without it when it is gone or late."""
    claims = [] if claim is None else [claim.namespace]
    return ExternalProcessor(
        grpc_service=asked(),
        failure_mode_allow=True,
        message_timeout=seconds(settings.message_timeout_seconds),
        max_message_timeout=seconds(MAX_MESSAGE_TIMEOUT),
        processing_mode=processing_mode(settings.body_mode),
        # Who served: the choice may have been a list, and a retry takes the next of it.
        response_attributes=[names.UPSTREAM_ADDRESS],
        mutation_rules=HeaderMutationRules(
            disallow_all=True, allow_expression=RegexMatcher(regex=SIDECAR_HEADERS)
        ),
        metadata_options=MetadataOptions(
            forwarding_namespaces=namespaces(
                names.METADATA_NAMESPACE, names.SUBSET_NAMESPACE, *claims
            ),
            receiving_namespaces=namespaces(names.METADATA_NAMESPACE),
        ),
    )


def processing_mode(body_mode: BodyMode) -> ProcessingMode:
    """What of a request and its response the sidecar is sent before they go on."""
    return ProcessingMode(
        request_header_mode=ProcessingModeHeaderSendMode.SEND,
        request_body_mode=BODY_MODES[body_mode],
        # This mode takes no body without the trailers.
        request_trailer_mode=(
            ProcessingModeHeaderSendMode.SEND
            if body_mode == "full_duplex_streamed"
            else ProcessingModeHeaderSendMode.SKIP
        ),
        response_header_mode=ProcessingModeHeaderSendMode.SEND,
        response_body_mode=ProcessingModeBodySendMode.NONE,
        response_trailer_mode=ProcessingModeHeaderSendMode.SKIP,
    )


def sidecar_filters(settings: EnvoySettings, claim: TenantClaim | None) -> list[HttpFilter]:
    """The filters that talk to the sidecar, for the routes that ask for them alone.

    What Envoy refuses before it knows a route passes none of them: a filter that waits for the
    sidecar would lose the answer, since Envoy closes the connection right after it.
    """
    filters = {EXT_PROC_FILTER: ext_proc(settings, claim)}
    if settings.metering:
        filters[METERING_FILTER] = metering()
    return [
        HttpFilter(name=name, typed_config=pack(message), disabled=True)
        for name, message in filters.items()
    ]


def with_sidecar(
    settings: EnvoySettings, asked: ExtProcOverrides | None = None
) -> dict[str, PackedMessage]:
    """Switches on, for a route, what talks to the sidecar; `asked` in another mode."""
    names_of_all = [EXT_PROC_FILTER, *([METERING_FILTER] if settings.metering else [])]
    on = dict.fromkeys(names_of_all, pack(ExtProcPerRoute(overrides=ExtProcOverrides())))
    if asked is not None:
        on[EXT_PROC_FILTER] = pack(ExtProcPerRoute(overrides=asked))
    return on


def metering() -> ExternalProcessor:
    """Copies replies to the sidecar, which reads what they took; waits for nothing."""
    return ExternalProcessor(
        grpc_service=asked(),
        failure_mode_allow=True,
        observability_mode=True,
        # What is under way to the sidecar when a request has ended still arrives.
        deferred_close_timeout=seconds(1),
        processing_mode=ProcessingMode(
            request_header_mode=ProcessingModeHeaderSendMode.SEND,
            request_body_mode=ProcessingModeBodySendMode.NONE,
            request_trailer_mode=ProcessingModeHeaderSendMode.SKIP,
            response_header_mode=ProcessingModeHeaderSendMode.SEND,
            response_body_mode=ProcessingModeBodySendMode.STREAMED,
            response_trailer_mode=ProcessingModeHeaderSendMode.SKIP,
        ),
        mutation_rules=HeaderMutationRules(disallow_all=True),
    )


def namespaces(*untyped: str) -> MetadataOptionsMetadataNamespaces:
    """Namespaces of untyped metadata."""
    return MetadataOptionsMetadataNamespaces(untyped=list(untyped))


def virtual_host(config: Config) -> VirtualHost:
    """Only inference reaches the replicas: their routes for operators stay behind the gateway."""
    settings, buffered = config.envoy, config.largest_buffered_body
    policy = repeats.retry_policy(
        settings.replica_silence_seconds, repeats.repeats_for(len(config.replicas))
    )
    return VirtualHost(
        name="inference",
        domains=["*"],
        routes=[
            answer(RouteMatch(path="/health"), 200, ""),
            answer(RouteMatch(path="/v1/kv_cache_hints"), 404, NOT_FOUND),
            # The filter answers none on a route that Envoy answers itself.
            *([] if settings.cors else [answer(cors.preflight(), 405, cors.REFUSED)]),
            *([] if settings.body_mode == "none" else [long_bodies(settings, buffered)]),
            inference(
                RouteMatch(prefix="/v1/", runtime_fraction=weighed(settings)),
                buffered,
                policy,
                with_sidecar(settings),
            ),
            # What the fraction leaves over goes by Envoy's own policy.
            inference(RouteMatch(prefix="/v1/"), buffered, policy, {}),
            answer(RouteMatch(prefix="/"), 404, NOT_FOUND),
        ],
        typed_per_filter_config=cors.policy(settings.cors),
    )


def long_bodies(settings: EnvoySettings, buffered: int) -> Route:
    """The route of bodies that say they are too long to be buffered: they stream through the
    sidecar, which weighs them by their beginning and their length.

    Without retries. None could repeat such a body, and what Envoy keeps of it for them would follow
    it once more where the request ends with trailers.
    """
    longer = HeaderMatcher(
        name="content-length", range_match=Int64Range(start=buffered + 1, end=2**63 - 1)
    )
    streamed = ExtProcOverrides(processing_mode=processing_mode("full_duplex_streamed"))
    return Route(
        match=RouteMatch(prefix="/v1/", headers=[longer], runtime_fraction=weighed(settings)),
        route=RouteAction(cluster=names.REPLICA_CLUSTER, timeout=seconds(0)),
        request_headers_to_remove=[names.JOIN],
        typed_per_filter_config=with_sidecar(settings, streamed),
    )


def inference(
    match: RouteMatch,
    buffered: int,
    policy: RetryPolicy,
    per_filter: dict[str, PackedMessage],
) -> Route:
    """A route to the replicas; bodies of more than `buffered` bytes get 413 where they must be
    buffered."""
    return Route(
        match=match,
        route=RouteAction(
            cluster=names.REPLICA_CLUSTER,
            # An answer may take as long as it takes; silence is limited above.
            timeout=seconds(0),
            retry_policy=policy,
        ),
        request_body_buffer_limit=buffered,
        # Between the filters it names the request; replicas have no use for it.
        request_headers_to_remove=[names.JOIN],
        typed_per_filter_config=per_filter,
    )


def weighed(settings: EnvoySettings) -> RuntimeFractionalPercent:
    """The share of requests that the sidecar is asked about."""
    return RuntimeFractionalPercent(
        default_value=FractionalPercent(numerator=settings.weighed_percent),
        runtime_key=names.WEIGHED_KEY,
    )


NOT_FOUND = (
    '{"error":{"message":"no such route","type":"invalid_request_error",'
    '"param":null,"code":"route_not_found"}}'
)


def answer(match: RouteMatch, status: int, body: str) -> Route:
    """A route that Envoy answers itself, without asking the sidecar."""
    return Route(
        match=match,
        direct_response=DirectResponseAction(
            status=status, body=DataSource(inline_string=body) if body else None
        ),
        response_headers_to_add=[
            HeaderValueOption(header=HeaderValue(key="content-type", value="application/json"))
        ]
        if body
        else [],
    )


ACCESS_FIELDS = {
    "time": "%START_TIME%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "status": "%RESPONSE_CODE%",
    "flags": "%RESPONSE_FLAGS%",
    "bytes_in": "%BYTES_RECEIVED%",
    "bytes_out": "%BYTES_SENT%",
    "duration_ms": "%DURATION%",
    "replica": "%UPSTREAM_HOST%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "answer_bytes": failures.ANSWER_BYTES,
    "details": "%RESPONSE_CODE_DETAILS%",
    "chosen": f"%DYNAMIC_METADATA({names.METADATA_NAMESPACE}:{names.DESTINATION})%",
}


def access_logs(path: str | None) -> list[AccessLog]:
    """The access log, one JSON object a line, where one is wanted."""
    if path is None:
        return []
    return [
        AccessLog(
            name="envoy.access_loggers.file",
            typed_config=pack(
                FileAccessLog(
                    path=path,
                    log_format=SubstitutionFormatString(
                        json_format=Struct.from_dict(ACCESS_FIELDS)
                    ),
                )
            ),
        )
    ]
