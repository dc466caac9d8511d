"""The admin port's pages, and those for probes and Prometheus."""

from pydantic import Field, ValidationInfo, field_validator

from weighbridge.config.schema import HostName, Name, Section, TcpAddress, require_loopback


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
