"""Keras: policies, layers, models, losses, optimizers with loss scaling, tapes."""
