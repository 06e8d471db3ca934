"""Procedural faces with exact masks: they stand in where no data set is given."""
