"""Signals as a reader gives them, made up."""

from oddlattice.read.signals import Axis, Signal


def axis(size, units="nm", scale=0.0125, navigate=False, name=""):
    return Axis(name, size, scale, units, navigate)


def signal(data, axes=None, *, dimension=2, name="", detector="", index=0):
    axes = axes or [axis(n) for n in data.shape]
    return Signal(index, name, detector, data, tuple(axes), dimension, "", "", {})
