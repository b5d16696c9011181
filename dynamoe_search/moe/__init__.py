"""Layers with experts, routing rules, and what they cost. Knows torch and nothing of studies."""
