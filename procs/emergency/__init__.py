"""The controlled stop: what the kill switch does when the emergency word is set."""
