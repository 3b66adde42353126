"""Processes: what launched them, how they meet, talk, and end."""
