"""One file per exchange: what its request says, what its response means, how it fails."""
