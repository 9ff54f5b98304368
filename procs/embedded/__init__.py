"""The embedded exchange behind Binance USD-M futures' own REST and WebSocket protocol, on loopback only."""
