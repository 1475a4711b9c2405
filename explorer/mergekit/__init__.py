"""mergekit recipes: read, planned before a byte of weights is read, and run with mergekit's own semantics."""
