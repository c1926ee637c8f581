"""terraform/: what can be checked without an account at a cloud."""
