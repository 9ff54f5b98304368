"""Binance USD-M futures: public data, signed REST, order entry through ccxt, the private stream.

Source: Binance USD-M futures API documentation (REST, user data streams, base URL split).
"""
