"""Training and sampling on one decoder: losses, optimizer, trainer, sampler, and the scheduler that runs both."""
