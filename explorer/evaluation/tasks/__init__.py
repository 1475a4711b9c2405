"""Task kinds, one file each; `explorer.evaluation.KINDS` discovers them."""
