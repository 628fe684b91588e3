"""Pictures and videos: files, the recipe inside each file, and the paths through latent space between images."""
