"""Archives on loopback that speak the real ones' protocols, and misbehave on demand."""
