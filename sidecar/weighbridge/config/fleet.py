"""The replicas, and how many there should be."""

from typing import Literal

from pydantic import Field

from weighbridge.config.schema import Domain, Endpoint, Name, Section

ReplicaState = Literal["healthy", "degraded", "ejected", "probing", "draining"]


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
