"""Which channels leave: scores of groups, limits and targets, and pruning by them."""
