"""Figure (a): the geometry foundation model Φ and the latent geometry model Φ_g that is stitched out of it."""
