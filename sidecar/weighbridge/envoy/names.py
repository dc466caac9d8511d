"""Names that Envoy's configuration and the sidecar must agree on."""

# Endpoint picker protocol: the header and the metadata key of the choice, and the key under which
# some gateways say who served.
METADATA_NAMESPACE = "envoy.lb"
SUBSET_NAMESPACE = "envoy.lb.subset_hint"
DESTINATION = "x-gateway-destination-endpoint"
SERVED = "x-gateway-destination-endpoint-served"
# Names a request to the filter that copies its reply; the sidecar draws it for each request.
JOIN = "x-weighbridge-request"
SUBSET = "x-gateway-destination-endpoint-subset"

# The attribute by which Envoy tells the sidecar who served.
UPSTREAM_ADDRESS = "upstream.address"

# The service that gRPC health is asked for: serving while the sidecar is ready for requests.
EXT_PROC_SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"

# The runtime key of the share of requests that the sidecar is asked about, percent.
WEIGHED_KEY = "weighbridge.weighed_percent"

SIDECAR_CLUSTER = "weighbridge"
# What gRPC calls to the sidecar are for. Without it Envoy sends the cluster's name, and not every
# gRPC server takes every name that a control plane gives its clusters.
SIDECAR_AUTHORITY = "weighbridge"
# Names a request to both calls that are made for it, the one that asks and the one that copies the
# reply: of several sidecars the same one gets both. No client can choose it.
STREAM = "x-weighbridge-stream"
STREAM_VALUE = "%CONNECTION_ID%-%START_TIME(%s.%9f)%"
REPLICA_CLUSTER = "replicas"
COLLECTOR_CLUSTER = "otlp-collector"
ADS_CLUSTER = "weighbridge-ads"
