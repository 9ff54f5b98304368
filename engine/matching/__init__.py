"""The embedded exchange as pure kernels: order book, accounts, seeded order flow, and its wire frames."""
