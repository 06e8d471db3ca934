"""What every room builds on: the contracts and the leaves; no torch and no engine."""
