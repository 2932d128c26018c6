"""How the security settings have TLS done."""

from __future__ import annotations

import ssl

from detector.contracts.errors import ConfigurationError
from detector.runtime.sections import KafkaSettings, secret


def tls_context(kafka: KafkaSettings) -> ssl.SSLContext | None:
    """The context for connections to the brokers; None where they do without TLS.

    Raises ConfigurationError where a file holds no certificate, or the key does not open or fit.
    """
    if not kafka.security_protocol.endswith("SSL"):
        return None
    try:
        context = ssl.create_default_context(cafile=str(kafka.ssl_cafile) if kafka.ssl_cafile else None)
    except OSError as error:
        raise ConfigurationError(f"kafka.ssl_cafile: {kafka.ssl_cafile} holds no certificates: {error}") from None
    context.check_hostname = kafka.ssl_check_hostname
    if kafka.ssl_certfile:
        passphrase = secret(kafka, "kafka", "ssl_password") or ""  # with None OpenSSL would ask at the terminal
        try:
            context.load_cert_chain(kafka.ssl_certfile, kafka.ssl_keyfile, passphrase)
        except OSError as error:
            raise ConfigurationError(
                "kafka.ssl_certfile, ssl_keyfile, ssl_password: there is no certificate, or no key that fits it and "
                f"opens with the passphrase, in {kafka.ssl_certfile}, {kafka.ssl_keyfile or 'the same file'}: {error}"
            ) from None
    return context
