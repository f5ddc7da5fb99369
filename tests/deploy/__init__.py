"""What stands in deploy/: that it is well formed, agrees with the code, and does what it says."""
