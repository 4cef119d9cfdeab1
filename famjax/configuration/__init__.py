"""gin at the edge: what can be configured, how it is checked, and how it is shown."""
