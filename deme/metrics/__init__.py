"""What a number means: features, their statistics, distances between them, and the held-out denoising loss."""
