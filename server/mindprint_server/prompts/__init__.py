"""Prompts: templates, rendering, and the text around thinking."""
