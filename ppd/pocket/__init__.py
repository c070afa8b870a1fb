"""The pocket world: small pictures, people who judge them, a real latent diffusion model trained from nothing."""
