"""Archives: one file each."""
