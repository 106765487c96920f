"""Benchmarks: never part of the tests, since a timing proves nothing on a shared machine. `make bench`."""
