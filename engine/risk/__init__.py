"""Limits: what is known of an instrument, the gate in front of every order, sizing."""
