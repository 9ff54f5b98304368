"""The trading domain: pure kernels and plain types. No I/O, no clocks, no processes."""
