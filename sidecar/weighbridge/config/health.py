"""How replicas are watched and judged."""

from pydantic import Field, model_validator

from weighbridge.config.schema import Section, TcpAddress


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
