"""Several studios learn one population prior, and nobody's picks leave their studio."""
