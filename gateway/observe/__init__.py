"""One immutable status snapshot and its renderings: metrics, CLI, JSON, explanations."""
