"""How the embedded models are made: VAE, video model and geometry model, trained on the procedural world."""
