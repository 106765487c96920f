"""Who runs where, and what next: policies, scheduler, clusters, commands."""
