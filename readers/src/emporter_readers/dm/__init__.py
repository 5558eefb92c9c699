"""Gatan DigitalMicrograph files, DM3 and DM4: images and stacks of one file, or a series of files of one plane each."""
