"""Tasks, vocabularies and batches."""
