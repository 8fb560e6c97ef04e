"""Checkpoints on disk: safetensors parts and a manifest that is written last."""
