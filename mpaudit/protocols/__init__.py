"""The protocols of mixed precision, each written once, as a state machine over `mpaudit.event`.

Whoever adds a rule about order adds it here, never to the static or the runtime half.
"""
