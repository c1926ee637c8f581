"""Stands for vLLM where it is not installed: what the plugin plugs into, and no more of it."""
