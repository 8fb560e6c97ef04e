"""Training runs and what may be asked of them."""
