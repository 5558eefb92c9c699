"""Events to a metadata store with queries."""
