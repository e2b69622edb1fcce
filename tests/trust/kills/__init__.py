"""Kills servers and trainers at random moments, and checks afterwards that all that was acknowledged still holds."""
