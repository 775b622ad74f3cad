"""Penalties on gradients that `torch.autograd.grad` returns."""

from __future__ import annotations

from mpaudit.event.core import Event, Ref


class ScaledGradientTaken(Event, frozen=True, kw_only=True):
    """`torch.autograd.grad(scaler.scale(loss), ..., create_graph=True)`: what it returns is scaled."""

    scaler: Ref


class ScaledPartScaled(Event, frozen=True, kw_only=True):
    """`scaler.scale(loss)` of a loss that was computed from what this scaler had scaled before."""

    scaler: Ref
