"""Dashboards of a run, drawn from its metrics."""
