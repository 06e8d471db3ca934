"""The networks, their registry and their exact deploy-time rewrites."""
