"""The files that training process, launcher and shipper share: streams of events and their state.

All of the emitter imports it; it imports only the bus, and never zmq.
"""
