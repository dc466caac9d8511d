"""The configuration file as a whole."""

from typing import Literal

from pydantic import Field, model_validator

from weighbridge.address import reached
from weighbridge.config.admin import Admin, MetricsPage
from weighbridge.config.admission import Admission
from weighbridge.config.claims import TenantClaim
from weighbridge.config.discovery import Discovery
from weighbridge.config.envoy import EnvoySettings, Runtime
from weighbridge.config.fleet import Autoscaling, Replica
from weighbridge.config.health import Health, Telemetry
from weighbridge.config.listen import Listen
from weighbridge.config.placing import Placing
from weighbridge.config.records import Log, Tracing, UsageLog
from weighbridge.config.schema import HeaderName, Name, Section

# Envoy may buffer one read (1 MiB) more than its limit, and a message has other fields, bytes.
MESSAGE_ROOM = 2 << 20


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
