"""Ways to find what to merge, and with which coefficients. Scores are passed in: nothing here loads a model."""
