"""Removing channels: which go together, which are zero, and a model without them."""
