"""Kraken Futures: instruments, subscriptions and their answers, as pure functions. No sockets yet.

Source: Kraken Futures, "REST API" and "WebSocket API".
"""
