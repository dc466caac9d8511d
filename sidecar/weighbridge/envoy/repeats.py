"""How Envoy repeats what a replica did not answer: where, how often, and when no more.

A replica that takes no connection, or says 503, has done nothing with a request. One that dies with
the whole request in its hands may have died of it: such a request goes to one more replica, and if
that one dies too, its client is told not to send it again.
"""

from envoy_data_plane.envoy.config.cluster.v3 import (
    CircuitBreakers,
    CircuitBreakersThresholds,
    CircuitBreakersThresholdsRetryBudget,
)
from envoy_data_plane.envoy.config.common.mutation_rules.v3 import (
    HeaderMutation as HeaderMutationRule,
)
from envoy_data_plane.envoy.config.core.v3 import (
    DataSource,
    HeaderValue,
    HeaderValueOption,
    HeaderValueOptionHeaderAppendAction,
)
from envoy_data_plane.envoy.config.route.v3 import (
    RetryPolicy,
    RetryPolicyRetryBackOff,
    RetryPolicyRetryHostPredicate,
)
from envoy_data_plane.envoy.extensions.filters.http.header_mutation.v3 import (
    HeaderMutation,
    Mutations,
)
from envoy_data_plane.envoy.extensions.filters.http.lua.v3 import Lua
from envoy_data_plane.envoy.extensions.filters.http.upstream_codec.v3 import UpstreamCodec
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpFilter,
)
from envoy_data_plane.envoy.extensions.retry.host.previous_hosts.v3 import (
    PreviousHostsPredicate,
)
from envoy_data_plane.envoy.type.v3 import Percent

from weighbridge.envoy.pack import pack, seconds

RETRY_ON = "connect-failure,refused-stream,reset,reset-before-request,retriable-status-codes"
# A replica that is starting, stopping, or whose engine is gone.
RETRIED_STATUS = 503
MOST_REPEATS = 3
# Every LLM request holds a connection and an ext_proc stream for as long as it runs; Envoy's own
# limit of 1,024 would refuse work that the replicas could queue.
CONCURRENCY = 1 << 16
# A repeated request counts until its answer has ended. Where half of the replicas are lost, each
# request of theirs goes to the other half: as many as those have, and no more.
BUDGET_PERCENT = 100
# Repeats at once that are always allowed: where nothing else runs, a share of it is nothing.
LEAST_BUDGET = 16

SENT, RECEIVED = "x-weighbridge-sent", "x-weighbridge-received"
REFUSAL = (
    '{"error":{"message":"two replicas failed while they worked on this request; '
    'do not send it again as it is","type":"server_error","param":null,"code":"replicas_failed"}}'
)
REFUSED_STATUS = 502
# What clients of OpenAI's interface ask before they send a request again by themselves.
SHOULD_RETRY = "x-should-retry"
# Envoy adds up the bytes of all attempts. Where they have grown on the way to a replica and not on
# the way back, it took the request, or a part of it, and gave no answer.
SCRIPT = f"""\
local function take(headers, name)
  local bytes = tonumber(headers:get(name)) or 0
  headers:remove(name)
  return bytes
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local sent, received = take(headers, "{SENT}"), take(headers, "{RECEIVED}")
  if sent == 0 then return end
  local known = handle:streamInfo():dynamicMetadata()
  local last = known:get("weighbridge.repeats") or {{sent = 0, received = 0, failed = 0}}
  local failed = last.failed
  if sent > last.sent and received == last.received then failed = failed + 1 end
  if failed >= 2 then
    handle:respond(
      {{[":status"] = "{REFUSED_STATUS}", ["content-type"] = "application/json",
        ["{SHOULD_RETRY}"] = "false"}},
      '{REFUSAL}')
    return
  end
  known:set("weighbridge.repeats", "sent", sent)
  known:set("weighbridge.repeats", "received", received)
  known:set("weighbridge.repeats", "failed", failed)
end
"""


def retry_policy(silence_seconds: float, repeats: int = MOST_REPEATS) -> RetryPolicy:
    """Repeats on another replica what one failed to begin: first those that the sidecar named."""
    return RetryPolicy(
        retry_on=RETRY_ON,
        retriable_status_codes=[RETRIED_STATUS],
        num_retries=repeats,
        per_try_idle_timeout=seconds(silence_seconds),
        retry_host_predicate=[
            RetryPolicyRetryHostPredicate(
                name="envoy.retry_host_predicates.previous_hosts",
                typed_config=pack(PreviousHostsPredicate()),
            )
        ],
        host_selection_retry_max_attempts=8,
        retry_back_off=RetryPolicyRetryBackOff(
            base_interval=seconds(0.01), max_interval=seconds(0.1)
        ),
    )


def repeats_for(replicas: int) -> int:
    """How often a request is repeated in a fleet that is known: no replica is asked twice.

    Of a single one, once: its connection may have been closing when the request was written.
    """
    return min(MOST_REPEATS, max(1, replicas - 1)) if replicas else MOST_REPEATS


def limits() -> CircuitBreakers:
    """Leaves queueing to the replicas and to admission, and bounds repeats."""
    return CircuitBreakers(
        thresholds=[
            CircuitBreakersThresholds(
                max_connections=CONCURRENCY,
                max_pending_requests=CONCURRENCY,
                max_requests=CONCURRENCY,
                retry_budget=CircuitBreakersThresholdsRetryBudget(
                    budget_percent=Percent(value=BUDGET_PERCENT),
                    min_retry_concurrency=LEAST_BUDGET,
                ),
            )
        ]
    )


def attempt_filters() -> list[HttpFilter]:
    """What each attempt passes on its way to a replica."""
    taken = {SENT: "%UPSTREAM_WIRE_BYTES_SENT%", RECEIVED: "%UPSTREAM_WIRE_BYTES_RECEIVED%"}
    rules = [
        HeaderMutationRule(
            append=HeaderValueOption(
                header=HeaderValue(key=name, value=value),
                append_action=HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
            )
        )
        for name, value in taken.items()
    ]
    return [
        HttpFilter(
            name="envoy.filters.http.header_mutation",
            typed_config=pack(HeaderMutation(mutations=Mutations(request_mutations=rules))),
        ),
        HttpFilter(
            name="envoy.filters.http.lua",
            typed_config=pack(Lua(default_source_code=DataSource(inline_string=SCRIPT))),
        ),
        HttpFilter(
            name="envoy.filters.http.upstream_codec",
            typed_config=pack(UpstreamCodec()),
        ),
    ]
