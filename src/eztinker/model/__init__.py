"""The decoder: one implementation for training and sampling, with LoRA adapters and a KV cache."""
