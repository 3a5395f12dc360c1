"""Quantised and narrow-float weights: found with their scales and zero points, seen as the real values they stand for.

`finding` reads from the graph how a stored tensor is quantised (`scheme.Quantisation`), `codes` turns stored bytes into
real values, and `blocks` shows a weight so that everything prunes it like floats: a zero is stored as the zero point.
"""
