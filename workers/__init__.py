"""One device: a frozen base model and many adapters that train on it together. Never imports ray."""
