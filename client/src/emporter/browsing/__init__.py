"""What archives hold, before anything is ingested: lists, annotations, details, and pictures that are never data."""
