"""What Envoy is to know at one moment, as xDS resources."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from envoy_data_plane.envoy.config.core.v3 import Locality
from envoy_data_plane.envoy.config.endpoint.v3 import (
    ClusterLoadAssignment,
    Endpoint,
    LbEndpoint,
    LocalityLbEndpoints,
)
from envoy_data_plane.google.protobuf import Any

from weighbridge.address import parse_endpoint
from weighbridge.config.fleet import Replica
from weighbridge.envoy import names
from weighbridge.envoy.clusters import discovered_cluster
from weighbridge.envoy.pack import address, pack

CLUSTER_TYPE = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
ENDPOINT_TYPE = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"


@dataclass(frozen=True, slots=True)
class Resources:
    """All resources of one type, by name, with their version."""

    version: str
    by_name: Mapping[str, Any]

    def asked(self, wanted: Sequence[str]) -> list[Any]:
        """Those asked for by name; all, where none is."""
        return [one for name, one in self.by_name.items() if not wanted or name in wanted]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One list of replicas, and the cluster that they are in."""

    number: int
    endpoints: frozenset[str]
    # By type URL, in the order in which Envoy is to take them.
    types: Mapping[str, Resources]


def snapshot(number: int, replicas: Sequence[Replica], health_path: str) -> Snapshot:
    """The list with this number, as Envoy takes it."""
    cluster = pack(discovered_cluster(health_path))
    return Snapshot(
        number=number,
        endpoints=frozenset(replica.endpoint for replica in replicas),
        types={
            # Its version changes with its content alone: Envoy warms a cluster that it is sent.
            CLUSTER_TYPE: Resources(
                hashlib.sha256(cluster.value).hexdigest()[:16], {names.REPLICA_CLUSTER: cluster}
            ),
            ENDPOINT_TYPE: Resources(
                str(number), {names.REPLICA_CLUSTER: pack(assignment(replicas))}
            ),
        },
    )


def assignment(replicas: Sequence[Replica]) -> ClusterLoadAssignment:
    """The replicas by failure domain, which Envoy knows as zones."""
    domains: defaultdict[str, list[LbEndpoint]] = defaultdict(list)
    for replica in replicas:
        where = address(parse_endpoint(replica.endpoint))
        domains[replica.domain].append(LbEndpoint(endpoint=Endpoint(address=where)))
    return ClusterLoadAssignment(
        cluster_name=names.REPLICA_CLUSTER,
        endpoints=[
            LocalityLbEndpoints(locality=Locality(zone=domain), lb_endpoints=domains[domain])
            for domain in sorted(domains)
        ],
    )
