"""Lazy 3-D readers of microscopy files over range reads."""
