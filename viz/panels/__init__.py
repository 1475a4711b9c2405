"""The places of the page: Models, Interference, Merge, and the bar above them."""
