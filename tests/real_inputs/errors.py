"""The one error this package reports to people."""


class RealInputsError(Exception):
    """The real model or data cannot be had; the message is one paragraph that says what to do."""
