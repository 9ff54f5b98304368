"""Kraken spot: instruments, subscriptions and their answers, as pure functions. No sockets yet.

Source: Kraken, "Spot REST API" and "Spot WebSocket API", v1 and v2.
"""
