"""Roles, start, agreement, and how a job ends."""
