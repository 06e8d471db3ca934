"""What each table of `fptk ablate` holds."""
