"""Personalized preference diffusion: one diffusion model that paints for one person, from a few of their picks."""

__version__ = "0.1.0"
