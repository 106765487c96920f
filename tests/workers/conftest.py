"""What all tests of workers run under."""

from tests.stores import bucket, make_root, scheme
from tests.threads import one_thread

__all__ = ["bucket", "make_root", "one_thread", "scheme"]
