"""One Envoy's ADS stream: what it has asked for, was sent, and has taken. No I/O."""

from dataclasses import dataclass, field

from envoy_data_plane.envoy.service.discovery.v3 import DiscoveryRequest, DiscoveryResponse

from weighbridge.xds.snapshot import CLUSTER_TYPE, ENDPOINT_TYPE, Snapshot


@dataclass(slots=True)
class Subscription:
    """What Envoy wants of one type, and how far it is."""

    names: tuple[str, ...]
    # Of the latest response; Envoy repeats it when it takes or refuses that response.
    nonce: str = ""
    version: str = ""
    # The number of the snapshot in it.
    number: int = 0


@dataclass(slots=True, eq=False)
class Session:
    """The state of one stream."""

    node: str = ""
    # Number of the latest list that Envoy has taken; None before its first.
    taken: int | None = None
    refusals: int = 0
    # Why Envoy refused the latest response; None while it has not.
    refusal: str | None = None
    _subscriptions: dict[str, Subscription] = field(default_factory=dict)
    _sent: int = 0

    def on_request(self, request: DiscoveryRequest, now: Snapshot) -> list[DiscoveryResponse]:
        """Takes a request and gives what is to be sent."""
        if request.node is not None and request.node.id:
            self.node = request.node.id
        kind = request.type_url
        if kind not in now.types:
            # A type that is not served: Envoy waits for it no longer than its own timeout.
            return []
        known = self._subscriptions.get(kind)
        names = tuple(sorted(request.resource_names))
        if known is None or not request.response_nonce:
            self._subscriptions[kind] = Subscription(names)
            return self._send(kind, now)
        if request.response_nonce != known.nonce:
            # It answers a response that another has overtaken.
            return []
        if request.error_detail is not None:
            self.refusals += 1
            self.refusal = request.error_detail.message or "no reason given"
        else:
            self.refusal = None
            if kind == ENDPOINT_TYPE:
                self.taken = known.number
        if names != known.names:
            known.names = names
            return self._send(kind, now)
        return []

    def on_snapshot(self, now: Snapshot) -> list[DiscoveryResponse]:
        """What Envoy is to be sent of a new list: clusters before their endpoints."""
        responses: list[DiscoveryResponse] = []
        for kind, resources in now.types.items():
            known = self._subscriptions.get(kind)
            if known is None:
                continue
            # A cluster that is sent anew waits for its endpoints, which Envoy need not ask for.
            warms = kind == ENDPOINT_TYPE and any(one.type_url == CLUSTER_TYPE for one in responses)
            if known.version != resources.version or warms:
                responses += self._send(kind, now)
        return responses

    def _send(self, kind: str, now: Snapshot) -> list[DiscoveryResponse]:
        known = self._subscriptions[kind]
        resources = now.types[kind]
        self._sent += 1
        known.nonce, known.version, known.number = str(self._sent), resources.version, now.number
        return [
            DiscoveryResponse(
                version_info=resources.version,
                resources=resources.asked(known.names),
                type_url=kind,
                nonce=known.nonce,
            )
        ]
