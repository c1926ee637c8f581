"""What is in a bucket, and whether it is good: what `ls`, `show` and `verify` print."""
