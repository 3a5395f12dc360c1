"""What the inputs of a model's weights are on real data, and the matrices that belong to them."""
