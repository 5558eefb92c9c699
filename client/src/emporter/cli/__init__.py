"""The `emporter` command. Heavy libraries are imported by the commands that need them, so that it starts at once."""
