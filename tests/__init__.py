"""Tests of Bot4. Shared helpers are imported as `tests.NAME`."""
