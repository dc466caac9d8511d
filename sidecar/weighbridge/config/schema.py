"""What the configuration's sections are made of: their base, and kinds of values."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from weighbridge.address import is_ip, parse_endpoint, parse_host_port, parse_listen

SECRET_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key"})
# HTTP's own, which end at Envoy or which it calls by another name.
UNSEEN_HEADERS = frozenset(
    {
        "connection",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
HOST_NAME = re.compile(r"[a-z0-9_.-]+")
HEADER_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")


def require_loopback(text: str) -> str:
    """The address itself, if only this machine can reach it; else ValueError."""
    address = parse_host_port(text)
    if not address.is_loopback:
        raise ValueError(f"'{text}': must be a loopback address, as it answers anyone who asks")
    return str(address)


def _host_port(text: str) -> str:
    return str(parse_host_port(text))


def _listen(text: str) -> str:
    return str(parse_listen(text))


def _endpoint(text: str) -> str:
    return str(parse_endpoint(text))


def _header(text: str) -> str:
    lowered = text.lower()
    if not HEADER_NAME.fullmatch(lowered):
        raise ValueError(f"'{text}' is no header name")
    if lowered in SECRET_HEADERS:
        raise ValueError(f"'{text}' carries a secret, and what it names is shown to operators")
    if lowered in UNSEEN_HEADERS:
        raise ValueError(f"'{text}' never reaches the sidecar")
    return lowered


def _host_name(text: str) -> str:
    name = text.lower().removesuffix(".")
    if not (HOST_NAME.fullmatch(name) or is_ip(name)):
        raise ValueError(f"'{text}': must be a host's name or address, without a port")
    return name


Priority = Literal["critical", "standard", "batch", "sheddable"]
LoopbackAddress = Annotated[str, AfterValidator(require_loopback)]
TcpAddress = Annotated[str, AfterValidator(_host_port)]
ListenAddress = Annotated[str, AfterValidator(_listen)]
Endpoint = Annotated[str, AfterValidator(_endpoint)]
HostName = Annotated[str, AfterValidator(_host_name)]
HeaderName = Annotated[str, AfterValidator(_header)]
Name = Annotated[str, Field(min_length=1, max_length=256)]
# Characters of a failure domain's name.
LONGEST_DOMAIN = 256
Domain = Annotated[str, Field(max_length=LONGEST_DOMAIN)]


class Section(BaseModel):
    """A part of the file: unknown keys are errors, values do not change once read."""

    model_config = ConfigDict(frozen=True, extra="forbid")
