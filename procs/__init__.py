"""The processes of Bot4 and everything that touches the outside world."""
