"""An installation of the chart on Kubernetes: what is missing, its state, its model, its size and its jobs."""
