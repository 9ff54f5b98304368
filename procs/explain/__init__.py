"""Where an order came from and what became of it: read from a session's journals, and its decision made again."""
