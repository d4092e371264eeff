"""Servers that tests talk to: real ones, and one that misbehaves on purpose."""
