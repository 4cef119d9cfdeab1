"""Planning: what a job takes of a slice of accelerators, found out on a machine without any."""
