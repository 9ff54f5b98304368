"""Strategies: pure kernels that turn a prediction into quote targets."""
