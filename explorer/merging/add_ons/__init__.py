"""Add-ons, one function each: what can be done to the result of any merge method."""
