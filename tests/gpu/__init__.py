"""Scripts for a machine with an NVIDIA GPU; pytest does not collect them."""
