"""longtail finds the images that a model has not learned to handle."""

__version__ = "0.1.0"
