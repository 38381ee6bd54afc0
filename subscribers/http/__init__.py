"""HTTP requests to receivers that misbehave, for every subscriber; no answer names a secret."""
