"""The exceptions pykickstart catches."""


class RequestException(OSError):
    """Any failure."""


class SSLError(RequestException):
    """A TLS failure."""
