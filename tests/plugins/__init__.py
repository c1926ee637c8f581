"""Tests of the plugins: real torch.compile, in child processes with fresh caches."""
