"""Execution: order states, ledger, decision hash, and the stage that ties strategies and gate to them."""
