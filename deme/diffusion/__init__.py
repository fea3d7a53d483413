"""The mathematics of diffusion: schedules, ranges of timesteps, weightings, seeds."""
