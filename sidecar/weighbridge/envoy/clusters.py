"""Envoy's two clusters: the replicas, whose host the sidecar chooses, and the sidecar itself."""

from collections.abc import Sequence

from envoy_data_plane.envoy.config.cluster.v3 import (
    Cluster,
    ClusterCommonLbConfig,
    ClusterDiscoveryType,
    ClusterEdsClusterConfig,
    LoadBalancingPolicy,
    LoadBalancingPolicyPolicy,
)
from envoy_data_plane.envoy.config.core.v3 import (
    AggregatedConfigSource,
    ApiVersion,
    ConfigSource,
    DataSource,
    HealthCheck,
    HealthCheckGrpcHealthCheck,
    HealthCheckHttpHealthCheck,
    Http1ProtocolOptions,
    Http2ProtocolOptions,
    HttpProtocolOptions,
    KeepaliveSettings,
    TransportSocket,
)
from envoy_data_plane.envoy.config.endpoint.v3 import (
    ClusterLoadAssignment,
    Endpoint,
    LbEndpoint,
    LocalityLbEndpoints,
)
from envoy_data_plane.envoy.config.route.v3 import (
    RouteActionHashPolicy,
    RouteActionHashPolicyHeader,
)
from envoy_data_plane.envoy.extensions.load_balancing_policies.common.v3 import (
    ConsistentHashingLbConfig,
)
from envoy_data_plane.envoy.extensions.load_balancing_policies.least_request.v3 import (
    LeastRequest,
)
from envoy_data_plane.envoy.extensions.load_balancing_policies.maglev.v3 import Maglev
from envoy_data_plane.envoy.extensions.load_balancing_policies.override_host.v3 import (
    OverrideHost,
    OverrideHostOverrideHostSource,
)
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
    CertificateValidationContext,
    CommonTlsContext,
    SubjectAltNameMatcher,
    SubjectAltNameMatcherSanType,
    TlsCertificate,
    UpstreamTlsContext,
)
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptions as UpstreamHttpOptions,
)
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptionsExplicitHttpConfig,
)
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher
from envoy_data_plane.envoy.type.v3 import Percent
from envoy_data_plane.google.protobuf import Any as PackedMessage

from weighbridge.address import HostPort, UnixPath
from weighbridge.config.envoy import SidecarTls
from weighbridge.envoy import names, repeats
from weighbridge.envoy.pack import address, extension, pack, seconds

# Entries of the table in which each sidecar has an equal share; a prime number.
SIDECAR_TABLE = 1021
UPSTREAM_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def replica_cluster(replicas: Sequence[HostPort], health_path: str) -> Cluster:
    """The replicas: the host that the sidecar named, else the one with the fewest requests."""
    return Cluster(
        name=names.REPLICA_CLUSTER,
        type=ClusterDiscoveryType.STATIC,
        connect_timeout=seconds(1),
        load_balancing_policy=override_host_policy(),
        load_assignment=assignment(names.REPLICA_CLUSTER, replicas),
        circuit_breakers=repeats.limits(),
        health_checks=[
            HealthCheck(
                timeout=seconds(1),
                interval=seconds(1),
                no_traffic_interval=seconds(1),
                unhealthy_threshold=2,
                healthy_threshold=1,
                http_health_check=HealthCheckHttpHealthCheck(path=health_path),
            )
        ],
        typed_extension_protocol_options={
            UPSTREAM_OPTIONS: pack(
                UpstreamHttpOptions(
                    # Shorter than the replicas' own keep-alive (uvicorn: 5 s), so that no request
                    # is written to a connection that is being closed.
                    common_http_protocol_options=HttpProtocolOptions(idle_timeout=seconds(4)),
                    explicit_http_config=HttpProtocolOptionsExplicitHttpConfig(
                        http_protocol_options=Http1ProtocolOptions()
                    ),
                    http_filters=repeats.attempt_filters(),
                )
            )
        },
    )


def discovered_cluster(health_path: str) -> Cluster:
    """The replicas as `replica_cluster` has them, their list served by the sidecar (EDS)."""
    cluster = replica_cluster([], health_path)
    cluster.type = ClusterDiscoveryType.EDS
    cluster.load_assignment = None
    cluster.eds_cluster_config = ClusterEdsClusterConfig(eds_config=ads_source())
    # A replica that has left the list goes at once, not when its health check fails at last.
    cluster.ignore_health_on_host_removal = True
    return cluster


def ads_source() -> ConfigSource:
    """Resources that come over the one ADS stream."""
    return ConfigSource(ads=AggregatedConfigSource(), resource_api_version=ApiVersion.V3)


def ads_cluster(server: HostPort | UnixPath, tls: SidecarTls | None = None) -> Cluster:
    """The sidecar's ADS server, over HTTP/2."""
    return Cluster(
        name=names.ADS_CLUSTER,
        type=discovery(server),
        connect_timeout=seconds(1),
        load_assignment=assignment(names.ADS_CLUSTER, [server]),
        transport_socket=tls_socket(tls) if tls else None,
        # A sidecar that hangs, or is gone without a word, is noticed.
        typed_extension_protocol_options=http2(
            Http2ProtocolOptions(
                connection_keepalive=KeepaliveSettings(interval=seconds(10), timeout=seconds(5))
            )
        ),
    )


def collector_cluster(collector: HostPort) -> Cluster:
    """The OTLP receiver, over HTTP/2."""
    return Cluster(
        name=names.COLLECTOR_CLUSTER,
        type=discovery(collector),
        connect_timeout=seconds(1),
        load_assignment=assignment(names.COLLECTOR_CLUSTER, [collector]),
        typed_extension_protocol_options=http2(Http2ProtocolOptions()),
    )


def sidecar_cluster(sidecar: HostPort | UnixPath, tls: SidecarTls | None = None) -> Cluster:
    """The sidecar's ext_proc server, over HTTP/2, left out while it says that it is not ready."""
    return Cluster(
        name=names.SIDECAR_CLUSTER,
        type=discovery(sidecar),
        connect_timeout=seconds(0.25),
        load_balancing_policy=same_sidecar_policy(),
        load_assignment=assignment(names.SIDECAR_CLUSTER, [sidecar]),
        circuit_breakers=repeats.limits(),
        health_checks=[
            HealthCheck(
                timeout=seconds(1),
                interval=seconds(1),
                no_traffic_interval=seconds(1),
                unhealthy_threshold=2,
                healthy_threshold=1,
                grpc_health_check=HealthCheckGrpcHealthCheck(service_name=names.EXT_PROC_SERVICE),
            )
        ],
        transport_socket=tls_socket(tls) if tls else None,
        # With the default, Envoy sends requests to an unhealthy sidecar as it is the only one.
        common_lb_config=no_panic(),
        typed_extension_protocol_options=http2(Http2ProtocolOptions()),
    )


def http2(options: Http2ProtocolOptions) -> dict[str, PackedMessage]:
    """HTTP/2 alone to a cluster: the form of its protocol options."""
    return {
        UPSTREAM_OPTIONS: pack(
            UpstreamHttpOptions(
                explicit_http_config=HttpProtocolOptionsExplicitHttpConfig(
                    http2_protocol_options=options
                )
            )
        )
    }


def tls_socket(tls: SidecarTls) -> TransportSocket:
    """TLS to the sidecar, whose certificate must hold the name; mTLS where Envoy has its own."""
    pairs = []
    if tls.certificate and tls.key:
        pairs = [
            TlsCertificate(
                certificate_chain=DataSource(filename=tls.certificate),
                private_key=DataSource(filename=tls.key),
            )
        ]
    name = StringMatcher(exact=tls.server_name)
    validation = CertificateValidationContext(
        trusted_ca=DataSource(filename=tls.ca),
        match_typed_subject_alt_names=[
            SubjectAltNameMatcher(san_type=SubjectAltNameMatcherSanType.DNS, matcher=name)
        ],
    )
    return TransportSocket(
        name="envoy.transport_sockets.tls",
        typed_config=pack(
            UpstreamTlsContext(
                sni=tls.server_name,
                common_tls_context=CommonTlsContext(
                    alpn_protocols=["h2"], tls_certificates=pairs, validation_context=validation
                ),
            )
        ),
    )


def override_host_policy() -> LoadBalancingPolicy:
    """Takes the hosts that the header names, one an attempt, in order; then least_request."""
    return policy(
        "envoy.load_balancing_policies.override_host",
        OverrideHost(
            override_host_sources=[OverrideHostOverrideHostSource(header=names.DESTINATION)],
            fallback_policy=policy(
                "envoy.load_balancing_policies.least_request", LeastRequest(choice_count=2)
            ),
        ),
    )


def same_sidecar_policy() -> LoadBalancingPolicy:
    """Of several sidecars, the same one for all calls of a request."""
    header = RouteActionHashPolicyHeader(header_name=names.STREAM)
    hashing = ConsistentHashingLbConfig(hash_policy=[RouteActionHashPolicy(header=header)])
    return policy(
        "envoy.load_balancing_policies.maglev",
        Maglev(table_size=SIDECAR_TABLE, consistent_hashing_lb_config=hashing),
    )


def policy(name: str, message: OverrideHost | LeastRequest | Maglev) -> LoadBalancingPolicy:
    """A load balancing policy of one entry."""
    return LoadBalancingPolicy(
        policies=[LoadBalancingPolicyPolicy(typed_extension_config=extension(name, message))]
    )


def assignment(name: str, hosts: Sequence[HostPort | UnixPath]) -> ClusterLoadAssignment:
    """The members of a cluster."""
    return ClusterLoadAssignment(
        cluster_name=name,
        endpoints=[
            LocalityLbEndpoints(
                lb_endpoints=[
                    LbEndpoint(endpoint=Endpoint(address=address(host))) for host in hosts
                ]
            )
        ],
    )


def no_panic() -> ClusterCommonLbConfig:
    """Never sends to a host that is known to be unhealthy."""
    return ClusterCommonLbConfig(healthy_panic_threshold=Percent(value=0))


def discovery(where: HostPort | UnixPath) -> ClusterDiscoveryType:
    """How Envoy finds an address: names are resolved, the rest is taken as it is."""
    if isinstance(where, UnixPath) or where.is_ip:
        return ClusterDiscoveryType.STATIC
    return ClusterDiscoveryType.STRICT_DNS
