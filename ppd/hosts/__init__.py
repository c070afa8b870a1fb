"""Hosts put a user adapter into a real denoiser and take it out again; import the one you need."""
