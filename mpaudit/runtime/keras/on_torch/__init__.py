"""Keras 3 on torch: the torch probe does the work, and is told what Keras knows."""
