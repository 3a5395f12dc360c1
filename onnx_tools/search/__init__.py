"""Looking for the most pruned model that keeps a quality."""
