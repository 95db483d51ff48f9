"""Training of other Out blocks for a checkpoint, so that it draws depth or normal maps."""
