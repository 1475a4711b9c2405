"""Places and values of the numbers that tell the compiled loops of a merge what to do."""

SUM, ELECT_MEAN, ELECT_SUM, ELECT_MAX, ELECTION, CONSENSUS, TALL, PAIRS, SIGNED, RAW = range(10)
"""Values of COMBINE. The last three are scores of PCB-Merging: what a task has to agree with there is each other task,
their signed relative sizes together, or their values together."""
FACTOR, LOW, HIGH, GROWTH, WEIGHT, MASK, BORDER, BEST, ROWS = range(9)
"""Rows of `numbers` [ROWS, T]."""
COMBINE, TRIMS, DRAWS, GROWS, TIES_POSITIVE, MIN_TASKS, FAST, DIVIDES, OPTIONS = range(9)
"""Places in `options`."""
PLAIN = 2
"""A value of FAST: votes have no upper limit, and a mean divides by the number of agreeing tasks."""
