"""Shared memory: atomics, segments, rings, doorbells, histograms. Knows nothing of trading."""
