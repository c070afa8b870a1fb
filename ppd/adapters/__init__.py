"""User adapters: how a user embedding u changes a denoiser, and the files that hold them."""
