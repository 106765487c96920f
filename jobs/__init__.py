"""What a job is: specs, records, errors. Pure Python: no torch, no ray."""
