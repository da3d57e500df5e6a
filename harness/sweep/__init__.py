"""A notebook over a grid of settings, on processes, Dask or Slurm."""
