"""The pocket world: a small picture world, the people in it, and a real latent diffusion model trained on it from nothing."""
