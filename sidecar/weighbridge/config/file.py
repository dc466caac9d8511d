"""The configuration file, its models and its reading. Every error names the file and the key."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import (
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from weighbridge.address import reached
from weighbridge.config.discovery import Discovery
from weighbridge.config.schema import (
    Domain,
    Endpoint,
    HeaderName,
    HostName,
    ListenAddress,
    LoopbackAddress,
    Name,
    Section,
    TcpAddress,
    require_loopback,
)
from weighbridge.errors import ConfigError
from weighbridge.process.logs import (
    LogFormat,
    LogLevel,
)

JWT_NAMESPACE = "envoy.filters.http.jwt_authn"

BodyMode = Literal["none", "buffered", "full_duplex_streamed"]
# Modes of Envoy that lose bodies (docs/envoy.md): files that name them get the mode that does not.
FORMER_BODY_MODES = {"buffered_partial": "buffered", "streamed": "full_duplex_streamed"}
# Envoy may buffer one read (1 MiB) more than its limit, and a message has other fields, bytes.
MESSAGE_ROOM = 2 << 20
ReplicaState = Literal["healthy", "degraded", "ejected", "probing", "draining"]
Transport = Literal["native", "grpcio"]
Priority = Literal["critical", "standard", "batch", "sheddable"]


class Tls(Section):
    """Certificates of the ext_proc port, files in PEM, relative to the configuration file."""

    certificate: Name = Field(description="The server's certificate, then its intermediates.")
    key: Name = Field(description="Its private key.")
    client_ca: Name | None = Field(
        None,
        description="Who signs clients' certificates. With it, a client without one is refused.",
    )


class Listen(Section):
    """Where Envoy's ext_proc filter reaches the sidecar."""

    address: ListenAddress = Field(
        "127.0.0.1:9002", description="`host:port` or `unix:/absolute/path`."
    )
    transport: Transport = Field(
        "native",
        description="`native`: the server inside the Rust core. `grpcio`: a Python server that "
        "passes bytes to the same core, for those who want Python interceptors.",
    )
    threads: int = Field(2, ge=1, le=256, description="Threads of the native server.")
    max_message_bytes: int = Field(
        18 << 20,
        ge=64 << 10,
        le=1 << 30,
        description="Largest ext_proc message, bytes; a body in a larger one is refused with 413.",
    )
    held_body_bytes: int = Field(
        192 << 20,
        ge=1 << 20,
        le=1 << 40,
        description="Most bytes of bodies that are held at once, of all requests together; a "
        "request beyond is refused with 503. The process may take twice as much for them.",
    )
    max_streams: int = Field(
        65_536,
        ge=1,
        le=1 << 20,
        description="Streams that one connection may have open; each request under way holds one, "
        "its metering another.",
    )
    tls: Tls | None = Field(
        None,
        description="Left out: plain text, for a sidecar on loopback or a Unix socket. Files that "
        "change are read again.",
    )


class AdminTls(Section):
    """TLS of the admin pages. Paths are relative to the configuration file."""

    certificate: Name = Field(description="The certificate and its chain, PEM.")
    key: Name = Field(description="Its private key, PEM.")
    client_ca: Name | None = Field(
        None, description="Authorities of clients' certificates, PEM; given: clients must have one."
    )


class Admin(Section):
    """The sidecar's own HTTP pages: health, status, decisions, metrics, the console."""

    token_file: Name | None = Field(
        None,
        description="File with the token that every page but /healthz and /readyz asks for, as "
        "`authorization: Bearer TOKEN`; relative to the configuration file.",
    )
    tls: AdminTls | None = Field(None, description="Left out: plain HTTP.")
    address: TcpAddress = Field(
        "127.0.0.1:9005", description="`host:port`, on loopback unless there is a `token_file`."
    )
    hosts: tuple[HostName, ...] = Field(
        (),
        description="Names, without a port, by which the pages may be asked for (the `Host` "
        "header), of `metrics.address` too. Loopback, the address configured and the address "
        "reached always may; others get 403, so that no page elsewhere can pass for this one.",
    )

    @field_validator("address")
    @classmethod
    def _strangers_need_a_token(cls, address: str, info: ValidationInfo) -> str:
        if info.data.get("token_file"):
            return address
        try:
            return require_loopback(address)
        except ValueError as error:
            raise ValueError(
                f"{error}; give admin.token_file, or metrics.address for health and metrics"
            ) from None


class MetricsPage(Section):
    """Health and metrics for probes and Prometheus, where other machines reach them."""

    address: TcpAddress | None = Field(
        None,
        description="`host:port` at which /healthz, /readyz and /metrics answer anyone, without "
        "a token. Metrics name tenants. Left out: on the admin pages only.",
    )


class Replica(Section):
    """One serving endpoint."""

    endpoint: Endpoint = Field(description="`ip:port`, as Envoy knows it.")
    profile: Name = Field(description="The `name` in one of the `profiles`.")
    model: Name | None = Field(
        None, description="The model it serves; left out: the profile's first."
    )
    adapters: tuple[Name, ...] = Field((), description="LoRA adapters that it has loaded.")
    domain: Domain = Field("", description="Failure domain: a rack or a zone.")
    share: float = Field(
        1.0, gt=0, le=1, description="Share of the profile's capacity that it may be given."
    )


class Workload(Section):
    """A wish about one tenant's replicas, in each model."""

    tenant: str = Field(description="The tenant; empty for requests that name none.")
    min_replicas: int = Field(0, ge=0, le=100_000, description="At least, as far as there are.")
    max_replicas: int = Field(100_000, ge=1, le=100_000, description="At most.")


class Objective(Section):
    """Times that are in time; what is left out is as for everybody."""

    ttft_ms: float | None = Field(
        None, ge=0.1, le=3_600_000, description="Time to the first token, ms."
    )
    tpot_ms: float | None = Field(
        None, ge=0.1, le=3_600_000, description="Time per token after it, ms."
    )
    priority: Priority | None = Field(
        None,
        description="Of requests that name this objective and no priority; never above their "
        "tenant's. For models and tenants it does nothing.",
    )


class Objectives(Section):
    """Objectives of some models and tenants, and of requests that name one."""

    models: dict[Name, Objective] = Field({}, description="By the model's name.")
    tenants: dict[Name, Objective] = Field(
        {}, description="By the tenant's name; they stand above a model's."
    )
    named: dict[Name, Objective] = Field(
        {},
        description="By what a request's `x-gateway-inference-objective` says. Times shorter than "
        "its tenant's are not taken.",
    )


class Placing(Section):
    """How a replica is chosen, and how slices are assigned. Times in ms are of the engine."""

    fallbacks: int = Field(
        2, ge=0, le=16, description="Replicas named after the chosen one, for Envoy's retries."
    )
    spill_margin_ms: float = Field(
        20.0, ge=0, le=1e9, description="Another replica must beat a session's home by this, ms..."
    )
    spill_margin_share: float = Field(
        0.5, ge=0, le=1, description="...and by this share of the wait there."
    )
    samples: int = Field(8, ge=0, le=64, description="Replicas looked at beside the slice's own.")
    cached_candidates: int = Field(
        4, ge=0, le=64, description="Replicas looked at for the prefix that they hold."
    )
    stall_weight: float = Field(
        4.0,
        ge=0,
        le=1000,
        description="What a sequence that a prefill stalls counts, beside a request that waits.",
    )
    promise_weight: float = Field(
        60.0,
        ge=0,
        le=100_000,
        description="How often more the harm to others counts where all of these are on promises, "
        "for a request that is not.",
    )
    room_weight: float = Field(
        60.0,
        ge=0,
        le=1000,
        description="How often a prefill counts, beside its own time, that another's cache would "
        "have saved, where a copy takes room that is short.",
    )
    reuse_s: float = Field(
        300.0,
        gt=0,
        le=1e6,
        description="Room is short where a cache is filled again within this time, s.",
    )
    degraded_factor: float = Field(
        2.0, ge=1, le=1000, description="A degraded replica's predicted time is multiplied by this."
    )
    adapter_ms: float = Field(500.0, ge=0, le=1e9, description="Time to load a LoRA adapter, ms.")
    objective_ttft_ms: float = Field(
        2_000.0, ge=1, le=1e9, description="Time to the first token that is in time, ms."
    )
    objective_tpot_ms: float = Field(
        100.0, ge=0.1, le=1e9, description="Time per token after it that is in time, ms."
    )
    objectives_of: Objectives = Objectives()
    load_tolerance: float = Field(
        0.03,
        ge=0,
        le=100,
        description="How far above the mean utilisation the assigner lets a replica be.",
    )
    turn_gap_s: float = Field(
        30.0,
        gt=0,
        le=1e6,
        description="Time between a session's turns, s: after it a moved "
        "session pays for its prefix again.",
    )
    horizon_s: float = Field(
        60.0, gt=0, le=1e6, description="Time over which the price of a move is spread, s."
    )
    churn_share: float = Field(
        0.1, ge=0, le=1, description="Share of all capacity that a round's moves may cost."
    )
    heat_memory_s: float = Field(
        30.0, gt=0, le=1e6, description="Time after which a slice's old rate counts 1/e, s."
    )
    round_seconds: float = Field(
        5.0, gt=0, le=3600, description="Between two rounds of the assigner, s."
    )
    workloads: tuple[Workload, ...] = Field((), description="Wishes about single tenants.")


class Queue(Section):
    """What may run and what may wait before a model's replicas."""

    window_ms: float = Field(
        3_000,
        ge=1,
        le=1e9,
        description="Work in flight that counts as full, ms of the replicas' capacity. An answer, "
        "however long, counts as its slot's part of it: a full batch is full.",
    )
    prefill_window_ms: float = Field(
        1_500,
        ge=1,
        le=1e9,
        description="Prefill not yet done that counts as full, ms of the replicas' capacity, half "
        "of it where something is promised; a prompt counts as one replica's part of it at most.",
    )
    kv_share: float = Field(
        1.0, ge=0.01, le=10, description="Share of the replicas' KV tokens that counts as full."
    )
    queue_requests: int = Field(4096, ge=0, le=1 << 20, description="Requests that may wait.")
    queue_window_ms: float = Field(
        250,
        ge=1,
        le=1e9,
        description="MU that may wait, ms of the replicas' capacity, where more than four "
        "requests for each replica do: under lasting overload what is served has waited about "
        "so long. Of `batch`, half of `max_wait_ms` may wait, if that is more.",
    )
    max_wait_ms: int = Field(30_000, ge=0, le=110_000, description="Longest wait, ms.")
    min_share: float = Field(
        0.05, ge=0, le=0.25, description="Least share of what is served for each waiting priority."
    )
    unknown_tenants: int = Field(
        4096, ge=0, le=1 << 20, description="Names not listed below that are kept apart."
    )


class Tenant(Section):
    """What a tenant was promised and may ask for, of each model."""

    guaranteed_mu_per_min: float = Field(
        0, ge=0, le=1e12, description="MU a minute that it gets whatever others do."
    )
    burst_mu: float | None = Field(
        None, gt=0, le=1e12, description="MU at once within the promise; else ten seconds of it."
    )
    weight: float = Field(
        1, ge=0.001, le=1000, description="Its part of what promises leave over, beside others'."
    )
    priority: Priority = Field(
        "standard", description="What is served first; a request may ask for less, never for more."
    )
    max_request_mu: float | None = Field(
        None, gt=0, description="Most MU that one request may be weighed at."
    )
    max_queued: int | None = Field(
        None, ge=0, le=1 << 20, description="Most requests that it may have waiting."
    )


class Admission(Section):
    """Tenants, their promises, and the queues that keep them."""

    enabled: bool = Field(True, description="Off: everything runs at once.")
    cut_sheddable: bool = Field(
        False,
        description="Requests of `sheddable` that no replica has begun to answer end with 429 "
        "`preempted` where a tenant's guarantee would miss its time to first token behind them.",
    )
    queue: Queue = Queue()
    tenants: dict[Name, Tenant] = Field(
        {}, max_length=10_000, description="By name, as header or claim has it."
    )
    default_tenant: Tenant = Field(
        Tenant(), description="For requests that name no tenant, or one that is not listed."
    )


class Jwt(Section):
    """The token that Envoy verifies before anything else; `weighbridge envoy render` sets it up."""

    issuer: Name = Field(description="What its `iss` must be.")
    audiences: tuple[Name, ...] = Field((), description="One of them must be in its `aud`.")
    jwks_file: Name = Field(description="The issuer's public keys (JWKS), as Envoy finds the file.")
    forward: bool = Field(False, description="Whether replicas get to see the token.")


class TenantClaim(Section):
    """A claim that Envoy has verified and that names the tenant; no header is believed then."""

    namespace: Name = Field(
        JWT_NAMESPACE, description="Namespace of Envoy's dynamic metadata that holds it."
    )
    path: tuple[Name, ...] = Field(
        ("claims", "tenant"),
        min_length=1,
        max_length=16,
        description="The keys that lead to it.",
    )
    jwt: Jwt | None = Field(
        None, description="Left out: another filter of yours writes the metadata."
    )

    @model_validator(mode="after")
    def _jwt_writes_there(self) -> "TenantClaim":
        if self.jwt is None:
            return self
        if self.namespace != JWT_NAMESPACE:
            raise ValueError(f"namespace: with `jwt` it is '{JWT_NAMESPACE}'")
        if len(self.path) < 2:
            raise ValueError("path: with `jwt`, a key for all claims, and then those of the claim")
        return self


class UsageLog(Section):
    """What each request took, a line of JSON each; for bills."""

    path: Name | None = Field(
        None, description="The file, relative to this one; left out: none is written."
    )
    max_bytes: int = Field(
        256 << 20, ge=1024, le=1 << 40, description="Size at which the file is set aside, bytes."
    )
    files: int = Field(8, ge=1, le=1000, description="Files set aside that are kept.")
    interval_seconds: float = Field(
        0.5, gt=0, le=1, description="Between two writes, s; a kill loses no more than that."
    )
    max_pending: int = Field(
        100_000, ge=1, le=10_000_000, description="Records that wait for a disk that is full."
    )


class Health(Section):
    """How the replicas' health is watched and judged."""

    enabled: bool = Field(True, description="Off: every replica counts as healthy.")
    path: str = Field("/health", pattern=r"^/", description="Path of the GET request.")
    interval_seconds: float = Field(
        1.0, gt=0, le=3600, description="Between two probes of a replica, s, if not too many."
    )
    timeout_seconds: float = Field(1.0, gt=0, le=60, description="For one probe, s.")
    polls_per_second: float = Field(
        200, gt=0, le=100_000, description="Most probes a second; more replicas wait longer."
    )
    max_concurrent: int = Field(64, ge=1, le=10_000, description="Most probes under way.")
    round_seconds: float = Field(
        1.0, gt=0, le=60, description="Between two rounds in which health is judged, s."
    )
    envoy_admin: TcpAddress | None = Field(
        None,
        description="Envoy's admin port: replicas that its outlier detection or health checks "
        "have taken out are ejected. Left out: Envoy is not asked.",
    )
    failures: int = Field(2, ge=1, le=100, description="Failed probes that eject a replica.")
    successes: int = Field(
        3, ge=1, le=100, description="Good probes or answers that end a replica's probing."
    )
    most_ejected: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Largest share of the replicas that may be out at once; one of two or more "
        "always may.",
    )
    ejection_seconds: float = Field(
        5, gt=0, le=86_400, description="First time out, s; it doubles each time..."
    )
    longest_ejection_seconds: float = Field(300, gt=0, le=86_400, description="...up to this.")
    probing_share: float = Field(
        0.05, ge=0, le=1, description="Share of its capacity that a replica gets while probing."
    )
    least_requests: float = Field(
        4, gt=0, le=1e6, description="Fewest recent requests that a share of failures is taken of."
    )
    failures_well: float = Field(
        0.05, ge=0, le=1, description="Share of failed requests that is still well."
    )
    failures_worst: float = Field(
        0.5, gt=0, le=1, description="Share of failed requests that ejects."
    )
    speed_well: float = Field(
        0.6, gt=0, le=4, description="Speed beside that of its like that is still well."
    )
    speed_worst: float = Field(
        0.15, ge=0, le=4, description="Speed beside that of its like that ejects."
    )
    first_byte_seconds: float = Field(
        30,
        gt=0,
        le=3600,
        description="A streamed request that ends unanswered after so long, overdue, has "
        "failed, s.",
    )

    @model_validator(mode="after")
    def _bounds_are_in_order(self) -> "Health":
        if self.failures_well >= self.failures_worst:
            raise ValueError("failures_well must be below failures_worst")
        if self.speed_worst >= self.speed_well:
            raise ValueError("speed_worst must be below speed_well")
        return self


class Telemetry(Section):
    """How the engines are asked what they carry."""

    enabled: bool = Field(True, description="Off: nothing is known of work that came past us.")
    path: str = Field(
        "/metrics", pattern=r"^/", description="Path of trtllm-serve's iteration statistics."
    )
    interval_seconds: float = Field(
        2.0, gt=0, le=3600, description="Between two polls of a replica, s, if not too many."
    )
    timeout_seconds: float = Field(
        4.0, gt=0, le=60, description="For one poll, s; an idle engine answers after 2 s."
    )
    polls_per_second: float = Field(
        200, gt=0, le=100_000, description="Most polls a second; more replicas wait longer."
    )
    max_concurrent: int = Field(512, ge=1, le=10_000, description="Most polls under way.")
    most_foreign_seconds: float = Field(
        30, ge=0, le=3600, description="Foreign load is believed up to so much of the capacity, s."
    )


class Autoscaling(Section):
    """What `weighbridge_desired_replicas` aims at, for each model."""

    target_utilisation: float = Field(
        0.7, gt=0, le=1, description="Share of capacity that demand should take."
    )
    queue_seconds: float = Field(
        60.0, gt=0, le=3600, description="Time in which what waits should be served, s."
    )
    min_replicas: int = Field(1, ge=0, le=100_000, description="At least.")
    max_replicas: int = Field(1000, ge=1, le=100_000, description="At most.")


class Runtime(Section):
    """Runtime keys, polled from Envoy's admin port; docs/tuning.md lists them."""

    enabled: bool = Field(True, description="Off: Envoy's admin port is not asked.")
    address: TcpAddress | None = Field(
        None, description="Envoy's admin port, `host:port`; left out: `envoy.admin`."
    )
    interval_seconds: float = Field(0.5, gt=0, le=60, description="Between two looks, s.")


class Tracing(Section):
    """Decisions as spans in OpenTelemetry traces; needs `weighbridge[otel]`."""

    collector: TcpAddress | None = Field(
        None,
        description="An OTLP receiver that speaks gRPC in plain text, `host:port`, often "
        "127.0.0.1:4317. Left out: nothing is traced.",
    )
    service_name: Name = Field("weighbridge", description="The sidecar's `service.name`.")
    max_pending: int = Field(
        10_000, ge=1, le=1 << 20, description="Spans that wait to be sent; beyond, the oldest go."
    )
    interval_seconds: float = Field(1.0, gt=0, le=60, description="Between two sendings, s.")
    timeout_seconds: float = Field(
        5.0, gt=0, le=60, description="For one sending, s; then its spans are lost and counted."
    )
    envoy: bool = Field(
        True,
        description="`weighbridge envoy render` gives Envoy a tracer of its own, with the same "
        "collector: its spans stand above the sidecar's.",
    )
    envoy_service_name: Name = Field("envoy", description="That tracer's `service.name`.")
    sampled_percent: float = Field(
        100.0,
        ge=0,
        le=100,
        description="Share of requests for which Envoy begins a sampled trace, percent; where the "
        "client's `traceparent` comes along, its own flag says it.",
    )


class Log(Section):
    """The log on standard error, one line a record."""

    level: LogLevel = Field("info", description="Least severity that is written.")
    format: LogFormat = Field("text", description="`text` or `json`.")


class SidecarTls(Section):
    """How Envoy speaks TLS to the sidecar. Paths are those that Envoy sees."""

    ca: Name = Field(description="Who signs the sidecar's certificate.")
    server_name: Name = Field(description="The name that the sidecar's certificate must hold.")
    certificate: Name | None = Field(None, description="Envoy's own certificate, for mTLS.")
    key: Name | None = Field(None, description="Its private key.")

    @model_validator(mode="after")
    def _pair(self) -> "SidecarTls":
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together")
        return self


class Cors(Section):
    """Whose pages in a browser may send requests."""

    origins: tuple[Name, ...] = Field(
        min_length=1,
        max_length=1000,
        description="Such as `https://chat.example`; `*` allows every site.",
    )
    headers: tuple[Name, ...] = Field(
        ("authorization", "content-type"),
        description="Headers that they may set. The official clients also set `x-stainless-*`, "
        "each of which has to be named.",
    )
    max_age_seconds: int = Field(
        600, ge=0, le=86_400, description="How long a browser may remember the answer, s."
    )


class EnvoySettings(Section):
    """What `weighbridge envoy render` writes, beyond what the other sections say."""

    listen: TcpAddress = Field("127.0.0.1:10000", description="Where clients connect.")
    admin: LoopbackAddress = Field("127.0.0.1:9901", description="Envoy's admin port.")
    body_mode: BodyMode = Field(
        "buffered",
        description="How much of a request's body the sidecar is sent. `buffered_partial` and "
        "`streamed` of former versions are taken for `buffered` and `full_duplex_streamed`.",
    )
    metering: bool = Field(
        True,
        description="A second filter copies replies to the sidecar, which reads their usage; no "
        "reply waits for it.",
    )
    message_timeout_seconds: float = Field(
        1.0,
        gt=0,
        le=60,
        description="The sidecar's time for one answer, s; then Envoy goes on alone.",
    )
    weighed_percent: int = Field(
        100,
        ge=0,
        le=100,
        description="Share of requests that the sidecar is asked about, percent; the rest goes by "
        "Envoy's own policy. The runtime key `weighbridge.weighed_percent` overrides it.",
    )
    body_buffer_bytes: int = Field(
        16 << 20,
        ge=1 << 16,
        le=1 << 30,
        description="Largest body that is buffered, bytes: weighed as a whole, and repeated by a "
        "retry. At least 2 MiB less than `listen.max_message_bytes`; left out: less where that "
        "is less.",
    )
    max_heap_bytes: int = Field(
        2 << 30,
        ge=64 << 20,
        description="Envoy's memory, bytes: near it the requests that hold the most of it are "
        "ended, then new ones refused, then connections cut that send more. Some 100 MB below what "
        "the container may have.",
    )
    max_connections: int = Field(
        1 << 16,
        ge=1,
        le=1 << 20,
        description="Connections of clients at once; a further one is closed.",
    )
    cors: Cors | None = Field(None, description="Left out: no other site's pages may ask.")
    sidecar_tls: SidecarTls | None = Field(
        None, description="Needed where `listen.tls` is set, and only there."
    )
    replica_silence_seconds: float = Field(
        600.0,
        gt=0,
        le=1800,
        description="A replica that sends nothing for so long has failed its request, s: one not "
        "begun goes to the next one. Above the time of the longest answer that is not streamed.",
    )
    access_log: str | None = Field(
        None, description="File for the access log in JSON, `/dev/stdout` for the terminal."
    )

    @field_validator("body_mode", mode="before")
    @classmethod
    def _former_mode(cls, mode: object) -> object:
        return FORMER_BODY_MODES.get(mode, mode) if isinstance(mode, str) else mode


class Config(Section):
    """The whole file."""

    listen: Listen = Listen()
    admin: Admin = Admin()
    metrics: MetricsPage = MetricsPage()
    profiles: tuple[Name, ...] = Field(
        (), description="Names of shipped profiles, or paths of files, relative to this one."
    )
    replicas: tuple[Replica, ...] = Field((), description="The replicas that may be chosen.")
    discovery: Discovery = Discovery()
    tokenizers: dict[Name, Name] = Field(
        {},
        max_length=1000,
        description="By model, its `tokenizer.json`, relative to this file: prompts are counted "
        "with it. Those of other models are estimated, which is some hundred times faster.",
    )
    tokenizer_max_bytes: int = Field(
        16 << 10,
        ge=0,
        le=1 << 30,
        description="Largest body that is counted, bytes; larger ones are estimated, since "
        "counting holds up other requests of its thread.",
    )
    placing: Placing = Placing()
    session_headers: tuple[HeaderName, ...] = Field(
        ("x-session-id", "x-conversation-id", "session_id", "conversation_id"),
        description="Request headers that may carry the session; the first found wins.",
    )
    tenant_header: HeaderName | None = Field(
        None,
        description="Request header that names the tenant: name it only where something before "
        "Envoy sets it, as it is believed. Left out: no header is.",
    )
    tenant_claim: TenantClaim | None = Field(
        None,
        description="A verified claim names the tenant; `tenant_header` is then taken off requests "
        "and not read.",
    )
    counted_tenants: int = Field(
        1000,
        ge=0,
        le=100_000,
        description="Tenants counted by name in metrics besides those that are listed; all others "
        "are `other`.",
    )
    priority_header: HeaderName = Field(
        "x-request-priority",
        description="Request header that may ask for a lower priority than the tenant's.",
    )
    admission: Admission = Admission()
    usage_log: UsageLog = UsageLog()
    unweighed: Literal["pass", "pick"] = Field(
        "pass",
        description="Requests that are no inference, such as `GET /v1/models`: `pass`: the gateway "
        "balances them; `pick`: a replica is named for them too, for a gateway without a fallback.",
    )
    default_output_tokens: int = Field(
        256, ge=1, le=1 << 20, description="Output assumed of a request, tokens."
    )
    decision_log: int = Field(
        1024, ge=0, le=1 << 20, description="Latest decisions kept for those who look."
    )
    drain_seconds: float = Field(
        30.0, ge=0, le=3600, description="Time that open streams get at SIGTERM, s."
    )
    health: Health = Health()
    autoscaling: Autoscaling = Autoscaling()
    telemetry: Telemetry = Telemetry()
    observe_only: bool = Field(
        False,
        description="Decide and record, but tell Envoy nothing, let nobody wait, refuse nothing.",
    )
    runtime: Runtime = Runtime()
    tracing: Tracing = Tracing()
    log: Log = Log()
    envoy: EnvoySettings = EnvoySettings()

    @property
    def runtime_address(self) -> str:
        """Envoy's admin port, as the runtime keys are polled from it."""
        return self.runtime.address or self.envoy.admin

    @property
    def largest_buffered_body(self) -> int:
        """Largest body that Envoy buffers and sends in one message, bytes."""
        return min(self.envoy.body_buffer_bytes, self._room_for_bodies)

    @property
    def _room_for_bodies(self) -> int:
        most = self.listen.max_message_bytes
        return max(most - MESSAGE_ROOM, most // 2)

    @model_validator(mode="after")
    def _buffered_bodies_fit_messages(self) -> "Config":
        asked, room = self.envoy.body_buffer_bytes, self._room_for_bodies
        if "body_buffer_bytes" in self.envoy.model_fields_set and asked > room:
            raise ValueError(
                f"envoy.body_buffer_bytes: {asked} is more than the {room} that have room in a "
                f"message of listen.max_message_bytes ({self.listen.max_message_bytes})"
            )
        return self

    @model_validator(mode="after")
    def _endpoints_are_distinct(self) -> "Config":
        seen: dict[str, int] = {}
        for index, replica in enumerate(self.replicas):
            first = seen.setdefault(reached(replica.endpoint), index)
            if first != index:
                raise ValueError(
                    f"replicas[{index}].endpoint: '{replica.endpoint}' is replicas[{first}] already"
                )
        return self

    @model_validator(mode="after")
    def _sources_are_distinct(self) -> "Config":
        seen: dict[str, int] = {}
        for index, source in enumerate(self.discovery.sources):
            first = seen.setdefault(source.label, index)
            if first != index:
                raise ValueError(
                    f"discovery.sources[{index}]: '{source.label}' is "
                    f"discovery.sources[{first}] already"
                )
        return self


# The reader in C where PyYAML has it: some ten times as fast, for lists of thousands of replicas.
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):  # type: ignore[misc]
    """YAML in which a key that is given twice is an error, not a silent choice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' is given twice", key_node.start_mark
                )
            seen.add(key)
        content: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return content


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file's mapping. ConfigError names the file, and the line where there is one."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text") from None
    try:
        content = yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line}: {error.problem or error}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must hold keys and values, not a {type(content).__name__}")
    return content


def load(path: Path) -> Config:
    """Reads and checks the configuration file."""
    content = read_yaml(path)
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{path}: {first_problem(error)}") from None


def first_problem(error: ValidationError) -> str:
    """The first of the problems as `key.path[index]: what is wrong`, and how many follow."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    first = problems[0]
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = "unknown key"
    where = key_path(first["loc"])
    text = f"{where}: {message}" if where else message
    more = len(problems) - 1
    return f"{text} (and {more} more)" if more else text


def key_path(location: tuple[int | str, ...]) -> str:
    """`("replicas", 2, "endpoint")` as `replicas[2].endpoint`."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            path += f".{part}" if path else part
    return path
