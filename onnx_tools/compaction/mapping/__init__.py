"""Which channels a model has, where they lie and which go together."""
