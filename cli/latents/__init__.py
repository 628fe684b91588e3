"""The commands of the latent space: mix, sweep, interpolate, again."""
