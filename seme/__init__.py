"""The merge engine, and SeMe: merging by semantic alignment."""
