"""Erasure, retention and export of a user's data."""
