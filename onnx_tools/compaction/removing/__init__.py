"""A model without some of its channels."""
