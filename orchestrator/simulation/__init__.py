"""A cluster of discrete events that drives the service's own policies; no device, no journal, no clock."""
