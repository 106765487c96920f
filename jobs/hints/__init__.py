"""What other training tools call things, and what to write here instead."""
