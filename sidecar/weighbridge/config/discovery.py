"""The configuration of discovery: its sources, and how replicas come and go."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from weighbridge.config.schema import Domain, ListenAddress, Name, Section, TcpAddress


class Template(Section):
    """What replicas of a source have in common, as the source itself does not tell it."""

    profile: Name = Field(description="The `name` in one of the `profiles`.")
    model: Name | None = Field(
        None, description="The model they serve; left out: the profile's first."
    )
    adapters: tuple[Name, ...] = Field((), description="LoRA adapters that they have loaded.")
    domain: Domain = Field("", description="Their failure domain, where the source tells none.")


class FileSource(Section):
    """A file with a list of replicas, read again when it changes."""

    kind: Literal["file"]
    path: Name = Field(
        description="YAML or JSON with the key `replicas`, as in this file; relative to this file."
    )
    interval_seconds: float = Field(
        0.5, gt=0, le=3600, description="Between two looks at the file, s."
    )

    @property
    def label(self) -> str:
        """Its name in logs and metrics."""
        return f"file {self.path}"


class DnsSource(Template):
    """The addresses of a name, asked for again and again."""

    kind: Literal["dns"]
    name: Name = Field(description="The name, such as `engines.default.svc.cluster.local`.")
    record: Literal["address", "srv"] = Field(
        "address", description="`address`: A and AAAA, with `port`. `srv`: SRV, with its ports."
    )
    port: int | None = Field(
        None, ge=1, le=65535, description="Port of the replicas; SRV records have their own."
    )
    server: TcpAddress | None = Field(
        None, description="The name server, `ip:port`; left out: those of /etc/resolv.conf."
    )
    interval_seconds: float = Field(5.0, gt=0, le=3600, description="Between two questions, s.")
    timeout_seconds: float = Field(2.0, gt=0, le=60, description="For one answer, s.")

    @property
    def label(self) -> str:
        """Its name in logs and metrics."""
        return f"dns {self.name}" + ("" if self.port is None else f":{self.port}")

    @model_validator(mode="after")
    def _addresses_need_a_port(self) -> "DnsSource":
        if (self.record == "address") != (self.port is not None):
            raise ValueError("port: must be given with `record: address`, and only with it")
        return self


class EnvoySource(Template):
    """The hosts of one of Envoy's clusters, with their zones and health."""

    kind: Literal["envoy"]
    admin: TcpAddress = Field(description="Envoy's admin port, `host:port`.")
    cluster: Name = Field(description="The cluster's name, as `/clusters` lists it.")
    interval_seconds: float = Field(1.0, gt=0, le=3600, description="Between two looks, s.")
    timeout_seconds: float = Field(2.0, gt=0, le=60, description="For one look, s.")

    @property
    def label(self) -> str:
        """Its name in logs and metrics."""
        return f"envoy {self.admin} {self.cluster}"


class KubernetesSource(Template):
    """What sources in a Kubernetes cluster share."""

    namespace: Name = Field("default", description="The namespace.")
    api: str | None = Field(
        None,
        pattern=r"^https?://",
        description="URL of the API server, such as a `kubectl proxy`; left out: the pod's own "
        "service account, else the kubeconfig file.",
    )


class EndpointSliceSource(KubernetesSource):
    """The endpoints of a Kubernetes Service."""

    kind: Literal["endpoint_slices"]
    service: Name = Field(description="The Service's name.")
    port: Name | None = Field(
        None, description="Name of its port; may be left out where there is one."
    )

    @property
    def label(self) -> str:
        """Its name in logs and metrics."""
        port = "" if self.port is None else f":{self.port}"
        return f"service {self.namespace}/{self.service}{port}"


class InferencePoolSource(KubernetesSource):
    """The pods that an InferencePool selects by their labels."""

    kind: Literal["inference_pool"]
    pool: Name = Field(description="The InferencePool's name.")

    @property
    def label(self) -> str:
        """Its name in logs and metrics."""
        return f"pool {self.namespace}/{self.pool}"


AnySource = Annotated[
    FileSource | DnsSource | EnvoySource | EndpointSliceSource | InferencePoolSource,
    Field(discriminator="kind"),
]


class Ads(Section):
    """The list of replicas, served to Envoy (CDS and EDS over ADS)."""

    address: ListenAddress | None = Field(
        None,
        description="`host:port` or `unix:/absolute/path`; left out: none is served, and Envoy has "
        "the list from elsewhere. It speaks TLS where `listen.tls` is set, with its certificates.",
    )
    patience_seconds: float = Field(
        5.0,
        gt=0,
        le=600,
        description="Time that Envoy gets to take a list, s, before a new replica is used "
        "without its word.",
    )


class Discovery(Section):
    """Sources of replicas beside the list `replicas`, and how replicas come and go."""

    sources: tuple[AnySource, ...] = Field((), description="All of them together make the list.")
    retry_seconds: float = Field(
        2.0, gt=0, le=3600, description="After a source has failed, s; its last list stays."
    )
    drain_seconds: float = Field(
        30.0,
        ge=0,
        le=3600,
        description="Time that a replica that leaves gets for what it has in flight, s.",
    )
    warm_up_seconds: float = Field(
        30.0,
        ge=0,
        le=3600,
        description="Time in which a replica that comes later grows into its share, s; 0: at once.",
    )
    ads: Ads = Ads()
