"""What a model's folder says: its config and its weights' headers, checked against each other. No weight is loaded."""
