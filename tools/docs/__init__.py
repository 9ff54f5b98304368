"""The pages of docs/ that are made from the source of truth, and the command that makes them."""
