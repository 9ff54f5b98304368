"""`bot4 doctor`: what this machine lacks for low latency or for live trading, and how to mend it.

A check reads and never writes, needs no root, and says what it found, what that means for the engine, and what to do.
"""
