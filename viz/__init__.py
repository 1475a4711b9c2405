"""Everything that is seen: charts, the page's own parts and its panels."""
