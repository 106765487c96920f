"""What Prometheus scrapes: figures of jobs and workers, exported by the one process that schedules.

`dashboards/metric_table.py` names every metric. figures.py is what the scheduler publishes every other second, frozen;
exporter.py makes series of it when somebody scrapes; recorder.py counts what happens; targets.py lists services for
Prometheus.
"""
