"""`bot4 latency`: percentiles, bars, exports and pages of a running engine's hops; what the machine costs."""
