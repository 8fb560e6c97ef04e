"""EZTinker: post-training on your own hardware, over the Tinker API."""

__version__ = "0.1.0"
