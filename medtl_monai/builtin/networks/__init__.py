"""The built-in networks, one module per family; imported on first use only."""
