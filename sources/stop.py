"""How inputs are asked to end without saying that the data does."""

from threading import Event

STOP = Event()
"""Set when the process is asked to stop: inputs then end, and the next run goes on from there."""
