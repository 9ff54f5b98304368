"""The journal at the edge: what came in, in the order that was chosen, before anybody acted on it."""
