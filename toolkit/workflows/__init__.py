"""What a command does from end to end, as functions that print nothing and return values."""
