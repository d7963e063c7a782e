"""oddlattice: finds what does not belong in atomic-resolution STEM images."""

__version__ = "0.1.0"
