"""Where training runs: processes of this machine, a shared folder, or Dask."""
