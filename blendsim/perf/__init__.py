"""What things cost: kernel profiles on disk, the step model and densities made from them."""
