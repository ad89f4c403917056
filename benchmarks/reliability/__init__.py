"""What remains of a search after its driver was killed repeatedly."""
