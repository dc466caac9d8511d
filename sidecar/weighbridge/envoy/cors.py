"""Pages in a browser: whose requests Envoy lets through, and how it answers their preflights."""

from envoy_data_plane.envoy.config.route.v3 import HeaderMatcher, RouteMatch
from envoy_data_plane.envoy.extensions.filters.http.cors.v3 import Cors as CorsFilter
from envoy_data_plane.envoy.extensions.filters.http.cors.v3 import CorsPolicy
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatcher, StringMatcher
from envoy_data_plane.google.protobuf import Any as PackedMessage

from weighbridge.config.envoy import Cors
from weighbridge.envoy.pack import pack

FILTER = "envoy.filters.http.cors"
METHODS = "GET, POST, DELETE, OPTIONS"
# What a page may read of an answer.
EXPOSED = "x-request-id, retry-after, x-weighbridge-answer-bytes"
# What is answered where no policy takes the preflight.
REFUSED = (
    '{"error":{"message":"requests of other sites\' pages are not allowed here",'
    '"type":"invalid_request_error","param":null,"code":"cors_not_allowed"}}'
)


def filters(settings: Cors | None) -> list[HttpFilter]:
    """Answers preflights from the sites that are allowed, before anything else."""
    return [] if settings is None else [HttpFilter(name=FILTER, typed_config=pack(CorsFilter()))]


def policy(settings: Cors | None) -> dict[str, PackedMessage]:
    """The sites that are allowed, for a virtual host."""
    if settings is None:
        return {}
    return {
        FILTER: pack(
            CorsPolicy(
                allow_origin_string_match=[origin(one) for one in settings.origins],
                allow_methods=METHODS,
                allow_headers=", ".join(settings.headers),
                expose_headers=EXPOSED,
                max_age=str(settings.max_age_seconds),
            )
        )
    }


def origin(text: str) -> StringMatcher:
    """One site, or all."""
    if text == "*":
        return StringMatcher(safe_regex=RegexMatcher(regex=".*"))
    return StringMatcher(exact=text)


def preflight() -> RouteMatch:
    """Any OPTIONS: a replica has nothing to say to it, and there is nothing to weigh."""
    options = HeaderMatcher(name=":method", string_match=StringMatcher(exact="OPTIONS"))
    return RouteMatch(prefix="/v1/", headers=[options])
