"""Ways to move bytes, knowing no archive."""
