"""The runtime half: runs a script under hooks and records what mixed precision really did.

`launch` runs the script, a probe per framework watches it, the `Tracer` rolls up what the probes
see, `trace` keeps it in one SQLite file. Nothing here imports a framework unless the script did.
"""
