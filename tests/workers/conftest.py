"""What all tests of workers run under."""

from tests.threads import one_thread

__all__ = ["one_thread"]
