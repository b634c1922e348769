"""The built-in partitioners, one a file; `framework.registry.PARTITIONERS` imports them all at its first question."""
