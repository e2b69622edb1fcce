"""The training objective."""
