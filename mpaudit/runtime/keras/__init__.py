"""The Keras probe: what a Keras script does, seen from inside while it runs."""
