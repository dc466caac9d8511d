"""Whose request it is: the claim that Envoy has verified."""

from pydantic import Field, model_validator

from weighbridge.config.schema import Name, Section

JWT_NAMESPACE = "envoy.filters.http.jwt_authn"


class Jwt(Section):
    """The token that Envoy verifies before anything else; `weighbridge envoy render` sets it up."""

    issuer: Name = Field(description="What its `iss` must be.")
    audiences: tuple[Name, ...] = Field((), description="One of them must be in its `aud`.")
    jwks_file: Name = Field(description="The issuer's public keys (JWKS), as Envoy finds the file.")
    forward: bool = Field(False, description="Whether replicas get to see the token.")


class TenantClaim(Section):
    """A claim that Envoy has verified and that names the tenant; no header is believed then."""

    namespace: Name = Field(
        JWT_NAMESPACE, description="Namespace of Envoy's dynamic metadata that holds it."
    )
    path: tuple[Name, ...] = Field(
        ("claims", "tenant"),
        min_length=1,
        max_length=16,
        description="The keys that lead to it.",
    )
    jwt: Jwt | None = Field(
        None, description="Left out: another filter of yours writes the metadata."
    )

    @model_validator(mode="after")
    def _jwt_writes_there(self) -> "TenantClaim":
        if self.jwt is None:
            return self
        if self.namespace != JWT_NAMESPACE:
            raise ValueError(f"namespace: with `jwt` it is '{JWT_NAMESPACE}'")
        if len(self.path) < 2:
            raise ValueError("path: with `jwt`, a key for all claims, and then those of the claim")
        return self
