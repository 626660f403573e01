"""The phantom: a test object whose inside is known. `samples` draws its slices; `medlens.load("phantom")` is its model."""

from medlens.phantom.scanner import samples

__all__ = ["samples"]
