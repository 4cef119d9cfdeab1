"""Loss, accuracy and exact match of checkpoints, by length and by position."""
