"""Guards: what a taste must not do to pictures, measured against the base, and a studio's own rules for them."""
