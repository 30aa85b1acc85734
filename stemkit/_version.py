"""The version of the package, for the package itself and for the build."""

__all__ = ["__version__"]

__version__ = "0.1.0"
