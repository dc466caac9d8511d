"""A Python gRPC server's TLS, with certificates that can change while it serves."""

from collections.abc import Callable

import grpc

from weighbridge.net.tls import Certificates


def credentials(shown: Callable[[], Certificates]) -> grpc.ServerCredentials:
    """Shows at each handshake what `shown` gives then; it is called on a thread of grpc's.

    Whether clients must have a certificate is settled by the first.
    """
    first = shown()
    return grpc.dynamic_ssl_server_credentials(
        _pem(first),
        lambda: _pem(shown()),
        require_client_authentication=first.client_ca is not None,
    )


def _pem(certificates: Certificates) -> grpc.ServerCertificateConfiguration:
    pair = (certificates.key, certificates.certificate)
    return grpc.ssl_server_certificate_configuration([pair], certificates.client_ca)
