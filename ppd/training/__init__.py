"""Training: one loop for every stage, and what user adapters learn from and by."""
