"""What Envoy does so that nobody passes for another: headers taken off, tokens verified."""

from envoy_data_plane.envoy.config.common.mutation_rules.v3 import (
    HeaderMutation as HeaderMutationRule,
)
from envoy_data_plane.envoy.config.core.v3 import DataSource
from envoy_data_plane.envoy.config.route.v3 import RouteMatch
from envoy_data_plane.envoy.extensions.filters.http.header_mutation.v3 import (
    HeaderMutation,
    Mutations,
)
from envoy_data_plane.envoy.extensions.filters.http.jwt_authn.v3 import (
    JwtAuthentication,
    JwtProvider,
    JwtRequirement,
    RequirementRule,
)

from weighbridge.config.claims import Jwt, TenantClaim
from weighbridge.config.file import Config
from weighbridge.envoy import names

JWT_FILTER = "envoy.filters.http.jwt_authn"
PROVIDER = "tenant"


def strip(config: Config) -> HeaderMutation:
    """Takes off a client's request what would steer it, or name a tenant where a claim does."""
    taken = [names.DESTINATION, names.SUBSET, names.SERVED, names.JOIN]
    if config.tenant_claim is not None and config.tenant_header is not None:
        taken.append(config.tenant_header)
    rules = [HeaderMutationRule(remove=name) for name in taken]
    return HeaderMutation(mutations=Mutations(request_mutations=rules))


def verification(claim: TenantClaim, jwt: Jwt) -> JwtAuthentication:
    """Lets only requests with a valid token reach inference, and keeps its claims as metadata."""
    provider = JwtProvider(
        issuer=jwt.issuer,
        audiences=list(jwt.audiences),
        local_jwks=DataSource(filename=jwt.jwks_file),
        payload_in_metadata=claim.path[0],
        forward=jwt.forward,
        # A token that never ends is a password.
        require_expiration=True,
    )
    rule = RequirementRule(
        match=RouteMatch(prefix="/v1/"), requires=JwtRequirement(provider_name=PROVIDER)
    )
    return JwtAuthentication(providers={PROVIDER: provider}, rules=[rule])
