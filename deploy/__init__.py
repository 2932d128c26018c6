"""What a deployment is made of, and the programs that make and check its files."""
