"""A company's own door to the 3xCoder image API."""

__version__ = "0.1.0"
