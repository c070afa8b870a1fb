"""Encoders, preference pairs to user embedding: `clip` has the picture features, `posterior` the Bradley-Terry fit."""
