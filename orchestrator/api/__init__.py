"""The HTTP API of the service. Handlers read the journal and write intent into it; what happens is the scheduler's."""
