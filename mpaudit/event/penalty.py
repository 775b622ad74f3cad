"""Penalties on gradients that `torch.autograd.grad` returns."""

from __future__ import annotations

from mpaudit.event.core import Event, Ref, event


@event
class ScaledGradientTaken(Event):
    """`torch.autograd.grad(scaler.scale(loss), ..., create_graph=True)`: what it returns is scaled."""

    scaler: Ref


@event
class ScaledPartScaled(Event):
    """`scaler.scale(loss)` of a loss that was computed from what this scaler had scaled before."""

    scaler: Ref
