"""The Tinker API over HTTP: decode, authenticate, bound, hand on, encode. The domain is in service."""
