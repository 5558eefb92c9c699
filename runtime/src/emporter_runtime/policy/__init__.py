"""The operator's rules on licence, embargo, purpose and retention: docs/policy.md."""
