"""Channels that are one known number everywhere, and what they leave behind."""
