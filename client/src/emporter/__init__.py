"""Emporter for its users: the `emporter` command, the Python client, the stack on one machine."""
