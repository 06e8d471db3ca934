"""One file per inference engine, found through a registry."""
