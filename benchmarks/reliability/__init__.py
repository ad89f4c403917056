"""What is left of a search after its driver was killed again and again."""
