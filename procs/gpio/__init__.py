"""The red button, the lights and the buzzer on this machine's pins.

lines.py is the small interface to the pins, with gpiozero and Linux's character device behind it; button.py watches
the contact, panel.py moves the lights. What anything means is decided in engine/safety.
"""
