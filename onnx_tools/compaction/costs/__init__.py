"""What layers cost: parameters, bytes, multiply-accumulates, time."""
