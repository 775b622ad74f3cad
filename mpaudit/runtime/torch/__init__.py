"""The torch probe: what a PyTorch script does, seen from inside while it runs."""
