"""Whole sessions in virtual time: one process, one thread, nothing sleeps, and a seed says everything.

The parts are those of a live engine: decoder, kernels, trading client, gateway core, venue. What is made here is what
lies between them live: time (loop.py), the network (wire.py, sockets.py), and the places they run in (feed.py,
execution.py, gateway.py). oracle.py checks after every event; hostile.py makes a session of a seed.
"""
